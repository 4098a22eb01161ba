"""Weights under torch names into backbones whose layers bear those names."""

from __future__ import annotations

from typing import Mapping

import keras
import numpy as np

from ekd_tf.models.layers import PReLU


def load_torch_weights(model: keras.Model, arrays: Mapping[str, np.ndarray]) -> None:
    """Copies a torch state_dict into a backbone that has a torch counterpart.

    Every layer bears the name of its torch module, so `X.weight` belongs to the
    layer `X`. What changes is the order of the axes:

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

    Args:
        model: Built by `MobileFaceNet` or `IR` (TFace), `IResNet` or `MBF` (insightface
            `arcface_torch`) with the sizes of the upstream model.
        arrays: Torch key -> array. Keys ending in `num_batches_tracked` hold nothing
            that is used and are skipped.

    Raises:
        ValueError: If a key is missing or unexpected, a shape differs or a value is
            not finite. Also if the scale of an IResNet's last batch normalisation is
            not 1, as the reference keeps it: the layer here has none. The model is
            then unchanged.
    """
    unused = {
        key: np.asarray(array)
        for key, array in arrays.items()
        if not key.endswith(".num_batches_tracked")
    }
    _take_unit_scale(unused)
    table = [entry for layer in model.layers for entry in _entries(layer, model)]
    missing = [key for key, _, _ in table if key not in unused]
    unexpected = sorted(set(unused) - {key for key, _, _ in table})
    if missing or unexpected:
        raise ValueError(
            f"`arrays` must hold exactly the weights of {model.name!r}. "
            f"Missing: {', '.join(missing) or 'none'}. "
            f"Unexpected: {', '.join(unexpected) or 'none'}."
        )
    # Convert everything before the first assignment: an error changes nothing.
    values = [_converted(key, unused[key], *target) for key, *target in table]
    for (_, weight, _), value in zip(table, values):
        weight.assign(value)


def _entries(layer, model):
    """Returns (torch key, Keras weight, conversion) for each weight of a layer."""
    name = layer.name
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return [(f"{name}.weight", layer.weights[0], _depthwise)]
    if isinstance(layer, keras.layers.Conv2D):
        return [(f"{name}.weight", layer.weights[0], lambda k: k.transpose(2, 3, 1, 0))]
    if isinstance(layer, PReLU):
        return [
            (f"{name}.weight", layer.alpha, lambda slopes: slopes.reshape(1, 1, -1))
        ]
    if isinstance(layer, keras.layers.Dense):
        kernel = (f"{name}.weight", layer.kernel, _linear(model))
        bias = (f"{name}.bias", layer.bias, np.asarray)
        return [kernel, bias] if layer.use_bias else [kernel]
    if isinstance(layer, keras.layers.BatchNormalization):
        learned = [("weight", layer.gamma)] if layer.scale else []
        learned += [("bias", layer.beta)] if layer.center else []
        statistics = [
            ("running_mean", layer.moving_mean),
            ("running_var", layer.moving_variance),
        ]
        return [(f"{name}.{key}", w, np.asarray) for key, w in learned + statistics]
    return []


def _depthwise(array):
    # Torch lists the inputs of each output, Keras the outputs of each input: the same
    # number, 1 where every channel is a group of its own.
    channels, size, height, width = array.shape
    grouped = array.reshape(-1, size, size, height, width)
    return grouped.transpose(3, 4, 0, 2, 1).reshape(height, width, channels, size)


def _linear(model):
    """Returns the conversion of the matrix applied to flattened features."""
    _, height, width, channels = model.get_layer("flatten").input.shape

    def convert(array):
        # Torch flattens channels first, Keras channels last.
        maps = array.reshape(-1, channels, height, width)
        return maps.transpose(2, 3, 1, 0).reshape(-1, len(array))

    return convert


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


def _take_unit_scale(unused):
    """Removes the scale of `features`, which must be 1, from the arrays."""
    scale = unused.pop("features.weight", None)
    if scale is not None and not np.all(scale == 1):
        raise ValueError(
            "`arrays['features.weight']` must be all 1: the reference does not "
            "train it and the layer has no scale. "
            f"Received: values from {scale.min()} to {scale.max()}"
        )
