"""Torch networks that `build_from_torch` takes, in NumPy and float64.

A second account of them, which shares nothing with the Keras backbones: it walks over
the modules by their names in a state_dict and applies what each does. All have an
eighth of the channels, take 32 pixels and give 6 numbers.
"""

import functools

import numpy as np


class State(dict):
    """A random state_dict of one of the networks below."""

    def __init__(self, rng, network, **sizes):
        super().__init__()
        self._walk = functools.partial(network, **sizes)
        self._walk(Net(self, rng), np.zeros((1, 3, 32, 32)))

    def embed(self, images):
        """Embeds uint8 images in the order of colours of the weights, in float64."""
        return self._walk(Net(self), (images.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.5)


def scaled(rng, shape):
    return rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))


class Net:
    """Modules by their names; with `rng` each draws its arrays as it is first met."""

    def __init__(self, state, rng=None):
        self.state, self.rng = state, rng

    def array(self, key, draw):
        if self.rng is not None:
            self.state[key] = draw(self.rng).astype(np.float32)
        return self.state.get(key)

    def conv(self, x, name, outputs, size, stride=1, padded=True, groups=1):
        shape = (outputs, x.shape[1] // groups, size, size)
        kernel = self.array(f"{name}.weight", lambda rng: scaled(rng, shape))
        around = (size // 2,) * 2 if padded else (0, 0)
        x = np.pad(x, ((0, 0), (0, 0), around, around))
        patches = np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))
        patches = patches[:, :, ::stride, ::stride]
        parts = zip(np.split(patches, groups, axis=1), np.split(kernel, groups))
        return np.concatenate(
            [np.einsum("nihwab,oiab->nohw", p, k, optimize=True) for p, k in parts],
            axis=1,
        )

    def norm(self, x, name, affine=True, least=0.5):
        count = x.shape[1]

        def spread(key, draw):
            values = self.array(f"{name}.{key}", draw)
            return np.float64(values).reshape(1, -1, *[1] * (x.ndim - 2))

        x = x - spread("running_mean", lambda rng: rng.normal(size=count))
        variance = spread("running_var", lambda rng: rng.uniform(0.5, 1.5, count))
        x = x / np.sqrt(variance + 1e-5)
        if affine:
            x = x * spread("weight", lambda rng: rng.uniform(least, 2 - least, count))
            x = x + spread("bias", lambda rng: rng.normal(size=count))
        if self.rng is not None:
            self.state[f"{name}.num_batches_tracked"] = np.array(7)
        return x

    def prelu(self, x, name):
        count = x.shape[1]
        slope = self.array(f"{name}.weight", lambda rng: rng.uniform(-0.5, 0.5, count))
        return np.where(x > 0, x, slope.reshape(1, -1, 1, 1) * x)

    def linear(self, x, name, bias=True):
        x = x.reshape(len(x), -1)
        shape = (6, x.shape[1])
        x = x @ self.array(f"{name}.weight", lambda rng: scaled(rng, shape)).T
        if bias:
            x = x + self.array(f"{name}.bias", lambda rng: rng.normal(size=6))
        return x

    def chain(self, x, name, outputs, size, form="012", act=True, **options):
        """Convolution, normalisation and, unless `act` is off, PReLU."""
        conv, norm, prelu = (f"{name}.{part}" for part in form)
        x = self.norm(self.conv(x, conv, outputs, size, **options), norm)
        return self.prelu(x, prelu) if act else x

    def depthwise(self, x, name, size, **options):
        count = x.shape[1]
        return self.chain(x, name, count, size, groups=count, **options)

    def bottleneck(self, x, name, between, outputs, stride=1, *, parts, form):
        first, second, third = (f"{name}.{part}" for part in parts)
        x = self.chain(x, first, between, 1, form)
        x = self.depthwise(x, second, 3, form=form, stride=stride)
        return self.chain(x, third, outputs, 1, form, act=False)


def iresnet(net, x, blocks):
    """Of insightface."""
    x = net.prelu(net.norm(net.conv(x, "conv1", 8, 3), "bn1"), "prelu")
    for stage, count in enumerate(blocks):
        outputs = 8 << stage
        for block in range(count):
            name, stride = f"layer{stage + 1}.{block}", 2 if block == 0 else 1
            y = net.conv(net.norm(x, f"{name}.bn1"), f"{name}.conv1", outputs, 3)
            y = net.prelu(net.norm(y, f"{name}.bn2"), f"{name}.prelu")
            y = net.conv(y, f"{name}.conv2", outputs, 3, stride)
            if block == 0:
                x = net.conv(x, f"{name}.downsample.0", outputs, 1, stride)
                x = net.norm(x, f"{name}.downsample.1")
            x = x + net.norm(y, f"{name}.bn3")
    # Upstream does not train the last scale.
    return net.norm(net.linear(net.norm(x, "bn2"), "fc"), "features", least=1)


def ir(net, x, blocks, bottleneck=False):
    """Of TFace: IR_18 to IR_101, or of the form of IR_152."""
    x = net.chain(x, "input_layer", 8, 3)
    number = 0
    for stage, count in enumerate(blocks):
        outputs = (32 if bottleneck else 8) << stage
        for block in range(count):
            name, stride = f"body.{number}", 2 if block == 0 else 1
            y = net.norm(x, f"{name}.res_layer.0")
            last = {"act": False, "stride": stride}
            if bottleneck:
                y = net.chain(y, f"{name}.res_layer", outputs // 4, 1, "123")
                y = net.chain(y, f"{name}.res_layer", outputs // 4, 3, "456")
                y = net.chain(y, f"{name}.res_layer", outputs, 1, "78-", **last)
            else:
                y = net.chain(y, f"{name}.res_layer", outputs, 3, "123")
                y = net.chain(y, f"{name}.res_layer", outputs, 3, "45-", **last)
            if x.shape[1] != outputs:
                x = net.chain(x, f"{name}.shortcut_layer", outputs, 1, "01-", **last)
            else:
                x = x[:, :, ::stride, ::stride]
            x, number = x + y, number + 1
    x = net.linear(net.norm(x, "output_layer.0"), "output_layer.3")
    return net.norm(x, "output_layer.4", affine=False)


def mbf(net, x, blocks, scale=2):
    """Of insightface."""
    form = ("layers.0", "layers.1", "layers.2")
    bottleneck = functools.partial(net.bottleneck, parts=form, form=form)

    def residual(x, name, count, between):
        for block in range(count):
            x = x + bottleneck(x, f"{name}.layers.{block}", between, x.shape[1])
        return x

    x = net.chain(x, "layers.0", 8 * scale, 3, form, stride=2)
    if blocks[0] == 1:
        # Groups of as many channels as `scale` says, not depthwise.
        x = net.chain(x, "layers.1", 8 * scale, 3, form, groups=8)
    else:
        x = residual(x, "layers.1", blocks[0], 16)
    for place, between, inner, outputs, count in (
        (2, 16, 16, 8 * scale, blocks[1]),
        (4, 32, 32, 16 * scale, blocks[2]),
        (6, 64, 32, 16 * scale, blocks[3]),
    ):
        x = bottleneck(x, f"layers.{place}", between, outputs, stride=2)
        x = residual(x, f"layers.{place + 1}", count, inner)
    x = net.chain(x, "conv_sep", 64, 1, form)
    x = net.depthwise(x, "features.layers.0", 2, form=form, act=False, padded=False)
    x = net.linear(x, "features.layers.2", bias=False)
    return net.norm(x, "features.layers.3")
