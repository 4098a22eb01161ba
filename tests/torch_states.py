"""Torch state_dicts of small networks by hand, and NumPy in place of torch."""

import numpy as np
import torch_networks


def reference_embeddings(family, state, images):
    """Returns what the definition of the torch network gives, in float64."""
    return torch_networks.embed(family, state, images, NumpyOps())


class StateMaker:
    """Collects random weights and statistics under the keys of torch modules."""

    def __init__(self, rng):
        self.rng = rng
        self.state = {}

    def conv(self, name, outputs, inputs, size):
        fan = inputs * size * size
        kernel = self.rng.normal(size=(outputs, inputs, size, size))
        self.state[f"{name}.weight"] = (kernel / np.sqrt(fan)).astype(np.float32)

    def norm(self, name, channels, affine=True):
        def put(key, values):
            self.state[f"{name}.{key}"] = values.astype(np.float32)

        if affine:
            put("weight", self.rng.uniform(0.5, 1.5, channels))
            put("bias", self.rng.normal(size=channels))
        put("running_mean", self.rng.normal(size=channels))
        put("running_var", self.rng.uniform(0.5, 1.5, channels))
        self.state[f"{name}.num_batches_tracked"] = np.array(7)

    def prelu(self, name, channels):
        slopes = self.rng.uniform(-0.5, 0.5, channels).astype(np.float32)
        self.state[f"{name}.weight"] = slopes

    def linear(self, name, outputs, inputs, bias=True):
        matrix = self.rng.normal(size=(outputs, inputs)) / np.sqrt(inputs)
        self.state[f"{name}.weight"] = matrix.astype(np.float32)
        if bias:
            self.state[f"{name}.bias"] = self.rng.normal(size=outputs).astype("f4")

    def chain(self, name, outputs, inputs, size, form, act=True):
        conv, norm, prelu = (f"{name}.{part}" for part in form)
        self.conv(conv, outputs, inputs, size)
        self.norm(norm, outputs)
        if act:
            self.prelu(prelu, outputs)


def iresnet_state(rng, blocks=(2, 2, 2, 2)):
    """Of iresnet18 with an eighth of the channels, 32 pixels, 6 numbers."""
    make = StateMaker(rng)
    make.conv("conv1", 8, 3, 3)
    make.norm("bn1", 8)
    make.prelu("prelu", 8)
    inputs = 8
    for stage, channels in enumerate((8, 16, 32, 64), start=1):
        for block in range(blocks[stage - 1]):
            name = f"layer{stage}.{block}"
            make.norm(f"{name}.bn1", inputs)
            make.conv(f"{name}.conv1", channels, inputs, 3)
            make.norm(f"{name}.bn2", channels)
            make.prelu(f"{name}.prelu", channels)
            make.conv(f"{name}.conv2", channels, channels, 3)
            make.norm(f"{name}.bn3", channels)
            if block == 0:
                make.conv(f"{name}.downsample.0", channels, inputs, 1)
                make.norm(f"{name}.downsample.1", channels)
            inputs = channels
    make.norm("bn2", 64)
    make.linear("fc", 6, 64 * 2 * 2)
    make.norm("features", 6)
    make.state["features.weight"] = np.ones(6, np.float32)
    return make.state


def ir_state(rng, blocks=(2, 2, 2, 2), bottleneck=False):
    """Of TFace's IR_18, or of the form of IR_152, sized like the other."""
    channels = (32, 64, 128, 256) if bottleneck else (8, 16, 32, 64)
    make = StateMaker(rng)
    make.chain("input_layer", 8, 3, 3, form="012")
    inputs, number = 8, 0
    for stage, outputs in enumerate(channels):
        for _ in range(blocks[stage]):
            name = f"body.{number}.res_layer"
            inner = outputs // 4 if bottleneck else outputs
            make.norm(f"{name}.0", inputs)
            if bottleneck:
                make.chain(name, inner, inputs, 1, form="123")
                make.chain(name, inner, inner, 3, form="456")
                make.chain(name, outputs, inner, 1, form="78-", act=False)
            else:
                make.chain(name, outputs, inputs, 3, form="123")
                make.chain(name, outputs, outputs, 3, form="45-", act=False)
            if inputs != outputs:
                shortcut = f"body.{number}.shortcut_layer"
                make.chain(shortcut, outputs, inputs, 1, form="01-", act=False)
            inputs, number = outputs, number + 1
    make.norm("output_layer.0", inputs)
    make.linear("output_layer.3", 6, inputs * 2 * 2)
    make.norm("output_layer.4", 6, affine=False)
    return make.state


def bottleneck_state(make, name, between, outputs, inputs, parts, form):
    first, second, third = (f"{name}.{part}" for part in parts)
    make.chain(first, between, inputs, 1, form)
    make.chain(second, between, 1, 3, form)
    make.chain(third, outputs, between, 1, form, act=False)


def mbf_state(rng, scale=2, blocks=(1, 4, 6, 2)):
    """Of insightface's mbf with an eighth of the channels, 32 pixels, 6 numbers."""
    make = StateMaker(rng)
    form = ("layers.0", "layers.1", "layers.2")
    parts = ("layers.0", "layers.1", "layers.2")

    def bottleneck(name, between, outputs, inputs):
        bottleneck_state(make, name, between, outputs, inputs, parts, form)

    outside = 8 * scale
    make.chain("layers.0", outside, 3, 3, form)
    if blocks[0] == 1:
        # Groups of as many channels as `scale` says, not depthwise.
        make.chain("layers.1", outside, scale, 3, form)
    else:
        for block in range(blocks[0]):
            bottleneck(f"layers.1.layers.{block}", 16, outside, outside)
    for place, between, inner, outputs, count in (
        (2, 16, 16, 8 * scale, blocks[1]),
        (4, 32, 32, 16 * scale, blocks[2]),
        (6, 64, 32, 16 * scale, blocks[3]),
    ):
        bottleneck(f"layers.{place}", between, outputs, outside)
        for block in range(count):
            name = f"layers.{place + 1}.layers.{block}"
            bottleneck(name, inner, outputs, outputs)
        outside = outputs
    make.chain("conv_sep", 64, outside, 1, form)
    make.chain("features.layers.0", 64, 1, 2, form, act=False)
    make.linear("features.layers.2", 6, 64, bias=False)
    make.norm("features.layers.3", 6)
    return make.state


def mobilefacenet_state(rng, blocks=(1, 4, 6, 2)):
    """Of TFace's with an eighth of the channels, 32 pixels, 6 numbers."""
    make = StateMaker(rng)
    form = ("conv", "bn", "prelu")
    parts = ("conv", "conv_dw", "project")
    make.chain("conv1", 8, 3, 3, form)
    make.chain("conv2_dw", 8, 1, 3, form)
    inputs = 8
    for names, between, inner, outputs, count in (
        (("23", "3"), 16, 16, 8, blocks[1]),
        (("34", "4"), 32, 32, 16, blocks[2]),
        (("45", "5"), 64, 32, 16, blocks[3]),
    ):
        name = f"conv_{names[0]}"
        bottleneck_state(make, name, between, outputs, inputs, parts, form)
        for block in range(count):
            name = f"conv_{names[1]}.model.{block}"
            bottleneck_state(make, name, inner, outputs, outputs, parts, form)
        inputs = outputs
    make.chain("conv_6_sep", 64, inputs, 1, form)
    make.chain("output_layer.conv_6_dw", 64, 1, 2, form, act=False)
    make.linear("output_layer.linear", 6, 64, bias=False)
    make.norm("output_layer.bn", 6, affine=False)
    return make.state


class NumpyOps:
    """What `torch_networks` asks of torch, in float64."""

    def pixels(self, array):
        return array

    def conv(self, x, kernel, stride, padding, groups):
        size = kernel.shape[-1]
        x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
        patches = np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))
        patches = patches[:, :, ::stride, ::stride]
        parts = zip(np.split(patches, groups, axis=1), np.split(kernel, groups))
        return np.concatenate(
            [np.einsum("nihwab,oiab->nohw", p, k, optimize=True) for p, k in parts],
            axis=1,
        )

    def norm(self, x, mean, variance, scale, offset):
        def spread(values, default):
            values = np.full(x.shape[1], default) if values is None else values
            return np.reshape(values, (1, -1) + (1,) * (x.ndim - 2)).astype(np.float64)

        x = (x - spread(mean, 0)) / np.sqrt(spread(variance, 1) + 1e-5)
        return x * spread(scale, 1) + spread(offset, 0)

    def prelu(self, x, slope):
        return np.where(x > 0, x, slope.reshape(1, -1, 1, 1) * x)

    def linear(self, x, matrix, bias):
        return x @ matrix.T + (0 if bias is None else bias)

    def flatten(self, x):
        return x.reshape(len(x), -1)

    def every(self, x, stride):
        return x[:, :, ::stride, ::stride]
