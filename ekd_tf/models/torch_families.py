"""Torch networks whose state_dicts become backbones: which they are, and their weights.

Every layer of a backbone bears the name of its torch module, so `X.weight` belongs to
the layer `X`. What changes is the order of the axes:

| torch module | key | torch shape | Keras weight and shape |
|---|---|---|---|
| Conv2d | weight | (out, in, h, w) | kernel (h, w, in, out) |
| Conv2d, groups of s | weight | (channels, s, h, w) | kernel (h, w, channels, s) |
| Linear | weight | (out, channels * h * w) | kernel (h * w * channels, out) |
| Linear | bias | (out,) | bias |
| BatchNorm | weight, bias | (channels,) | gamma, beta |
| BatchNorm | running_mean | (channels,) | moving_mean |
| BatchNorm | running_var | (channels,) | moving_variance |
| PReLU | weight | (channels,) | alpha (1, 1, channels) |
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

import keras
import numpy as np

from ekd_tf.checks import check_choice
from ekd_tf.models import ir
from ekd_tf.models import iresnet
from ekd_tf.models import mbf
from ekd_tf.models.layers import PReLU
from ekd_tf.models.mobilefacenet import MobileFaceNet

COLORS = ("rgb", "bgr")


class _Family(NamedTuple):
    """A torch network: how to build it, and the modules whose shapes tell its sizes."""

    build: Callable[..., keras.Model]
    # The module that takes the pixels, and its outputs at width 1.
    first: str
    channels: int
    # The projection, and the module before it: a depthwise convolution over all that is
    # left of the image, or the batch normalisation of the features that are flattened.
    linear: str
    spread: str
    # The batch normalisation that learns a scale in some upstreams.
    optional_scale: str | None = None


_FAMILIES = {}
for _depth in iresnet.BLOCKS:
    _FAMILIES[f"insightface_r{_depth}"] = _Family(
        functools.partial(iresnet.IResNet, depth=_depth), "conv1", 64, "fc", "bn2"
    )
for _variant, (_, _scale) in mbf.MBF_SIZES.items():
    _FAMILIES[f"insightface_{_variant}"] = _Family(
        functools.partial(mbf.MBF, variant=_variant),
        "layers.0.layers.0",
        64 * _scale,
        "features.layers.2",
        "features.layers.0.layers.0",
    )
for _depth in ir.IR_BLOCKS:
    _FAMILIES[f"tface_ir_{_depth}"] = _Family(
        functools.partial(ir.IR, depth=_depth),
        "input_layer.0",
        64,
        "output_layer.3",
        "output_layer.0",
        "output_layer.4",
    )
_FAMILIES["tface_mobilefacenet"] = _Family(
    MobileFaceNet,
    "conv1.conv",
    64,
    "output_layer.linear",
    "output_layer.conv_6_dw.conv",
    "output_layer.bn",
)
TORCH_FAMILIES = tuple(_FAMILIES)


def recognise(keys: Iterable[str]) -> str | None:
    """Returns the family whose modules these keys name, or None.

    It looks at the names that tell families apart; a key may still be missing.
    """
    keys = set(keys)

    def count(pattern):
        matches = [re.match(pattern, key) for key in keys]
        return 1 + max((int(match[1]) for match in matches if match), default=-1)

    form: Any = "conv_6_sep.conv.weight" in keys
    forms: dict[str, Any] = {"tface_mobilefacenet": True}
    if "conv1.weight" in keys:
        form = tuple(count(rf"layer{stage}\.(\d+)\.") for stage in range(1, 5))
        forms = {f"insightface_r{d}": counts for d, counts in iresnet.BLOCKS.items()}
    elif "input_layer.0.weight" in keys:
        form = (count(r"body\.(\d+)\."), "body.0.res_layer.7.weight" in keys)
        forms = {
            f"tface_ir_{depth}": (sum(counts), depth in ir.BOTTLENECK_DEPTHS)
            for depth, counts in ir.IR_BLOCKS.items()
        }
    elif "conv_sep.layers.0.weight" in keys:
        form = count(r"layers\.3\.layers\.(\d+)\.")
        sizes = mbf.MBF_SIZES.items()
        forms = {f"insightface_{name}": counts[1] for name, (counts, _) in sizes}
    return next((family for family, known in forms.items() if known == form), None)


def build_from_torch(
    family: str, arrays: Mapping[str, np.ndarray], color: str = "rgb"
) -> keras.Model:
    """Builds the backbone a torch state_dict belongs to, with its weights, frozen.

    All sizes are those of the arrays. Both upstreams feed `(pixel / 255 - 0.5) / 0.5`,
    and so does the model by itself. It takes RGB whichever `color`, "rgb" or "bgr", the
    weights were trained on: its first kernel is turned.
    """
    check_choice("family", family, TORCH_FAMILIES)
    check_choice("color", color, COLORS)
    actual = recognise(arrays)
    if actual not in (family, None):
        raise ValueError(
            "`family` must be that of the weights, whose keys are those of "
            f"{actual!r}. Received: {family!r}"
        )
    upstream = _FAMILIES[family]
    model = upstream.build(**_sizes(family, upstream, arrays))
    if color == "bgr":
        key = f"{upstream.first}.weight"
        arrays = {**arrays, key: np.asarray(arrays[key])[:, ::-1]}
    load_torch_weights(model, arrays)
    model.trainable = False
    return model


def _sizes(family, upstream, arrays):
    """Returns the builder's arguments, read from the shapes."""

    def shape_of(module, *ranks):
        key = f"{module}.weight"
        shape = np.shape(arrays[key]) if key in arrays else None
        if shape is None or len(shape) not in ranks or 0 in shape:
            raise ValueError(
                f"The weights of {family!r} must hold `{key}` with "
                f"{' or '.join(map(str, ranks))} dimensions. Received: "
                + ("no such key" if shape is None else f"shape={shape}")
            )
        return shape

    first, linear = shape_of(upstream.first, 4), shape_of(upstream.linear, 2)
    spread = shape_of(upstream.spread, 1, 4)
    # Either a kernel of its height and width, or as many values a channel.
    side = spread[-1] if len(spread) == 4 else math.isqrt(linear[1] // spread[0])
    sizes = {
        "embedding_dim": linear[0],
        "width": first[0] / upstream.channels,
        # Four times halved, rounded up.
        "input_size": 16 * side,
    }
    if upstream.optional_scale:
        sizes["last_bn_affine"] = f"{upstream.optional_scale}.weight" in arrays
    return sizes


def load_torch_weights(model: keras.Model, arrays: Mapping[str, np.ndarray]) -> None:
    """Copies a torch state_dict into a backbone that has a torch counterpart.

    `num_batches_tracked` are not used. What does not fit exactly, or is not finite, is
    a `ValueError`, and the model is then unchanged.
    """
    unused = {
        key: np.asarray(array)
        for key, array in arrays.items()
        if not key.endswith(".num_batches_tracked")
    }
    scale = unused.pop("features.weight", None)
    if scale is not None and not np.all(scale == 1):
        raise ValueError(
            "`arrays['features.weight']` must be all 1: the reference does not "
            "train it and the layer has no scale. "
            f"Received: values from {scale.min()} to {scale.max()}"
        )
    table = {
        f"{layer.name}.{key}": target
        for layer in model.layers
        for key, *target in _weights_of(layer, model)
    }
    missing = [key for key in table if key not in unused]
    unexpected = sorted(set(unused) - set(table))
    if missing or unexpected:
        raise ValueError(
            f"`arrays` must hold exactly the weights of {model.name!r}. "
            f"Missing: {', '.join(missing) or 'none'}. "
            f"Unexpected: {', '.join(unexpected) or 'none'}."
        )
    # Convert everything before the first assignment: an error changes nothing.
    values = [_converted(key, unused[key], *target) for key, target in table.items()]
    for (weight, _), value in zip(table.values(), values):
        weight.assign(value)


def _weights_of(layer, model):
    """Yields (torch name, Keras weight, conversion) for each weight of a layer."""
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        yield "weight", layer.weights[0], _depthwise
    elif isinstance(layer, keras.layers.Conv2D):
        yield "weight", layer.weights[0], lambda kernel: kernel.transpose(2, 3, 1, 0)
    elif isinstance(layer, PReLU):
        yield "weight", layer.alpha, lambda slopes: slopes.reshape(1, 1, -1)
    elif isinstance(layer, keras.layers.Dense):
        features = model.get_layer("flatten").input.shape[1:]
        yield "weight", layer.kernel, functools.partial(_linear, features)
        if layer.use_bias:
            yield "bias", layer.bias, np.asarray
    elif isinstance(layer, keras.layers.BatchNormalization):
        if layer.scale:
            yield "weight", layer.gamma, np.asarray
        if layer.center:
            yield "bias", layer.beta, np.asarray
        yield "running_mean", layer.moving_mean, np.asarray
        yield "running_var", layer.moving_variance, np.asarray


def _depthwise(array):
    # Torch lists the inputs of each output, Keras the outputs of each input: the same
    # number, 1 where every channel is a group of its own.
    channels, size, height, width = array.shape
    grouped = array.reshape(-1, size, size, height, width)
    return grouped.transpose(3, 4, 0, 2, 1).reshape(height, width, channels, size)


def _linear(features, array):
    # Torch flattens the features' channels first, Keras last.
    height, width, channels = features
    maps = array.reshape(-1, channels, height, width)
    return maps.transpose(2, 3, 1, 0).reshape(-1, len(array))


def _converted(key, array, weight, convert):
    """Returns the array as the weight's value, or raises naming the key."""
    try:
        value = convert(array)
    except ValueError:
        value = None
    if value is None or value.shape != tuple(weight.shape):
        raise ValueError(
            f"`arrays[{key!r}]` does not fit the layer's weight "
            f"{tuple(weight.shape)}. Received: shape={array.shape}"
        )
    if not np.all(np.isfinite(value)):
        raise ValueError(f"`arrays[{key!r}]` must be finite. It holds NaN or inf.")
    return value
