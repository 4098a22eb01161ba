"""The torch networks that `build_from_torch` takes, as their state_dicts describe them.

A second account of them, which shares nothing with the Keras backbones: it walks over
the keys of a state_dict and applies what each module does, by the operations it is
given (`torch_states.NumpyOps`).
"""

import itertools

# Blocks of each stage, where the state_dict does not tell them apart.
IR_STAGES = {
    "tface_ir_18": (2, 2, 2, 2),
    "tface_ir_34": (3, 4, 6, 3),
    "tface_ir_50": (3, 4, 14, 3),
    "tface_ir_101": (3, 13, 30, 3),
    "tface_ir_152": (3, 8, 36, 3),
    "tface_ir_200": (3, 24, 36, 3),
}


def embed(family, state, images, ops):
    """Returns what the torch network gives for images, in inference mode.

    Args:
        family: One of `ekd_tf.models.TORCH_FAMILIES`.
        state: Torch key -> array.
        images: Uint8 `(n, size, size, 3)`, in the order of colours of the weights.
        ops: An object of the methods of `torch_states.NumpyOps`.

    Returns:
        `(n, dim)`, of the kind `ops` computes with.
    """
    net = _Net(state, ops)
    x = ops.pixels((images.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.5)
    if family.startswith("insightface_r"):
        return _iresnet(net, x)
    if family.startswith("insightface_mbf"):
        return _mbf(net, x)
    if family in IR_STAGES:
        return _ir(net, x, IR_STAGES[family])
    return _mobilefacenet(net, x)


class _Net:
    """Modules by their names in a state_dict."""

    def __init__(self, state, ops):
        self.state, self.ops = state, ops

    def has(self, name):
        return f"{name}.weight" in self.state

    def conv(self, x, name, stride=1, padded=True):
        kernel = self.state[f"{name}.weight"]
        padding = kernel.shape[-1] // 2 if padded else 0
        groups = x.shape[1] // kernel.shape[1]
        return self.ops.conv(x, kernel, stride, padding, groups)

    def norm(self, x, name):
        keys = ("running_mean", "running_var", "weight", "bias")
        return self.ops.norm(x, *(self.state.get(f"{name}.{key}") for key in keys))

    def prelu(self, x, name):
        return self.ops.prelu(x, self.state[f"{name}.weight"])

    def linear(self, x, name):
        matrix, bias = (self.state.get(f"{name}.{key}") for key in ("weight", "bias"))
        return self.ops.linear(self.ops.flatten(x), matrix, bias)

    def chain(self, x, name, stride=1, padded=True, form=("0", "1", "2")):
        """Convolution, normalisation and, where there is one, PReLU."""
        conv, norm, prelu = (f"{name}.{part}" for part in form)
        x = self.norm(self.conv(x, conv, stride, padded), norm)
        return self.prelu(x, prelu) if self.has(prelu) else x


def _iresnet(net, x):
    x = net.prelu(net.norm(net.conv(x, "conv1"), "bn1"), "prelu")
    for stage, block in itertools.product(range(1, 5), range(100)):
        name = f"layer{stage}.{block}"
        if not net.has(f"{name}.conv1"):
            continue
        stride = 2 if block == 0 else 1
        y = net.conv(net.norm(x, f"{name}.bn1"), f"{name}.conv1")
        y = net.prelu(net.norm(y, f"{name}.bn2"), f"{name}.prelu")
        y = net.norm(net.conv(y, f"{name}.conv2", stride), f"{name}.bn3")
        if net.has(f"{name}.downsample.0"):
            x = net.conv(x, f"{name}.downsample.0", stride)
            x = net.norm(x, f"{name}.downsample.1")
        x = x + y
    return net.norm(net.linear(net.norm(x, "bn2"), "fc"), "features")


def _ir(net, x, stages):
    x = net.chain(x, "input_layer")
    starts = {sum(stages[:stage]) for stage in range(4)}
    for block in range(sum(stages)):
        name = f"body.{block}.res_layer"
        stride = 2 if block in starts else 1
        y = net.norm(x, f"{name}.0")
        if net.has(f"{name}.7"):
            y = net.chain(y, name, form=("1", "2", "3"))
            y = net.chain(y, name, form=("4", "5", "6"))
            y = net.norm(net.conv(y, f"{name}.7", stride), f"{name}.8")
        else:
            y = net.chain(y, name, form=("1", "2", "3"))
            y = net.norm(net.conv(y, f"{name}.4", stride), f"{name}.5")
        shortcut = f"body.{block}.shortcut_layer"
        if net.has(f"{shortcut}.0"):
            x = net.norm(net.conv(x, f"{shortcut}.0", stride), f"{shortcut}.1")
        else:
            x = net.ops.every(x, stride)
        x = x + y
    x = net.linear(net.norm(x, "output_layer.0"), "output_layer.3")
    return net.norm(x, "output_layer.4")


def _mbf(net, x):
    def bottleneck(x, name, stride=1):
        x = net.chain(x, f"{name}.layers.0.layers")
        x = net.chain(x, f"{name}.layers.1.layers", stride)
        return net.chain(x, f"{name}.layers.2.layers")

    def residual(x, name):
        for block in itertools.count():
            if not net.has(f"{name}.layers.{block}.layers.0.layers.0"):
                return x
            x = x + bottleneck(x, f"{name}.layers.{block}")

    x = net.chain(x, "layers.0.layers", stride=2)
    if net.has("layers.1.layers.0"):
        x = net.chain(x, "layers.1.layers")
    else:
        x = residual(x, "layers.1")
    for place in (2, 4, 6):
        x = residual(bottleneck(x, f"layers.{place}", 2), f"layers.{place + 1}")
    x = net.chain(x, "conv_sep.layers")
    x = net.chain(x, "features.layers.0.layers", padded=False)
    return net.norm(net.linear(x, "features.layers.2"), "features.layers.3")


def _mobilefacenet(net, x):
    form = ("conv", "bn", "prelu")

    def bottleneck(x, name, stride=1):
        x = net.chain(x, f"{name}.conv", form=form)
        x = net.chain(x, f"{name}.conv_dw", stride, form=form)
        return net.chain(x, f"{name}.project", form=form)

    x = net.chain(x, "conv1", 2, form=form)
    x = net.chain(x, "conv2_dw", form=form)
    for halving, stage in (("23", "3"), ("34", "4"), ("45", "5")):
        x = bottleneck(x, f"conv_{halving}", 2)
        for block in itertools.count():
            name = f"conv_{stage}.model.{block}"
            if not net.has(f"{name}.conv.conv"):
                break
            x = x + bottleneck(x, name)
    x = net.chain(x, "conv_6_sep", form=form)
    x = net.chain(x, "output_layer.conv_6_dw", padded=False, form=form)
    return net.norm(net.linear(x, "output_layer.linear"), "output_layer.bn")
