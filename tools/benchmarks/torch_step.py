"""One training step of MobileFaceNet with ArcFace in torch, for bench_train_step.py.

Imports nothing but torch, since it runs in an environment of its own. Written as a
torch user would: the network of `ekd_tf.models.MobileFaceNet` from `torch.nn` modules,
`channels_last`, `torch.autocast` for bfloat16, `torch.optim.SGD`.

    python tools/benchmarks/torch_step.py '{"precision": "float32", "batch": 64, ...}'

makes a step for every line it reads and answers with `wall cpu` in milliseconds.
"""

import json
import sys
import time

import torch
from torch import nn
from torch.nn import functional

STAGES = (
    (128, 64, 0),
    (128, 64, 4),
    (256, 128, 0),
    (256, 128, 6),
    (512, 128, 0),
    (256, 128, 2),
)


def conv(inputs, outputs, kernel, stride=1, groups=1, act=True, padding=None):
    """Returns convolution, batch normalisation and PReLU."""
    padding = kernel // 2 if padding is None else padding
    parts = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*parts, *([nn.PReLU(outputs)] if act else []))


class Bottleneck(nn.Module):
    """Expand, filter each channel, project; with a shortcut where stride is 1."""

    def __init__(self, inputs, between, outputs, stride):
        super().__init__()
        self.body = nn.Sequential(
            conv(inputs, between, 1),
            conv(between, between, 3, stride, groups=between),
            conv(between, outputs, 1, act=False),
        )
        self.shortcut = stride == 1

    def forward(self, x):
        return x + self.body(x) if self.shortcut else self.body(x)


def mobilefacenet(width, size, dim):
    """Returns the network: pixels of -1 to 1 `(n, 3, size, size)` to embeddings."""

    def scaled(channels):
        return max(8, int(channels * width / 8 + 0.5) * 8)

    first = scaled(64)
    parts = [conv(3, first, 3, 2), conv(first, first, 3, groups=first)]
    inputs = first
    for between, outputs, residual in STAGES:
        for _ in range(residual or 1):
            stride = 1 if residual else 2
            parts.append(Bottleneck(inputs, scaled(between), scaled(outputs), stride))
            inputs = scaled(outputs)
    # Four times halved, rounded up.
    last, side = scaled(512), -(-size // 16)
    parts += [
        conv(inputs, last, 1),
        conv(last, last, side, groups=last, act=False, padding=0),
        nn.Flatten(),
        nn.Linear(last, dim, bias=False),
        nn.BatchNorm1d(dim, affine=False),
    ]
    return nn.Sequential(*parts)


def main():
    case = json.loads(sys.argv[1])
    torch.set_num_threads(case["threads"])
    torch.manual_seed(0)
    net = mobilefacenet(case["width"], case["size"], case["dim"])
    if case["channels_last"]:
        net = net.to(memory_format=torch.channels_last)
    centres = nn.Parameter(torch.randn(case["identities"], case["dim"]) * 0.01)
    parameters = [*net.parameters(), centres]
    optimizer = torch.optim.SGD(parameters, 0.01, momentum=0.9, weight_decay=5e-4)
    shape = (case["batch"], case["size"], case["size"], 3)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    labels = torch.randint(0, case["identities"], (case["batch"],))
    half = case["precision"] == "bfloat16"

    def step():
        x = (images.permute(0, 3, 1, 2).float() - 127.5) / 127.5
        if case["channels_last"]:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            embeddings = net(x)
        rows = functional.normalize(embeddings.float())
        cosines = rows @ functional.normalize(centres).T
        angles = torch.acos(cosines.clamp(-1 + 1e-7, 1 - 1e-7))
        own = functional.one_hot(labels, case["identities"]).bool()
        logits = 64 * torch.where(own, torch.cos(angles + 0.5), cosines)
        loss = functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    count = sum(p.numel() for p in net.parameters())
    for _ in range(2):
        step()
    print(count, flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(1e3 * wall, 1e3 * cpu, flush=True)


if __name__ == "__main__":
    main()
