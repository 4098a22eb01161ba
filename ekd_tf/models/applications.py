"""Networks of `keras.applications` as face embedders."""

from __future__ import annotations

import inspect
from typing import Any

import keras
import numpy as np

from ekd_tf.checks import check_choice
from ekd_tf.checks import check_range
from ekd_tf.models import blocks
from ekd_tf.models.layers import BatchNormalization
from ekd_tf.models.layers import PixelNormalization

# Arguments of a network that are set here, or are of the classifier that goes.
_SET_HERE = "classes dropout dropout_rate include_preprocessing include_top".split()
# They divide pixels themselves, and cannot be told not to.
_TAKE_PIXELS = "EfficientNetB"


def list_applications() -> list[str]:
    """Returns the names `Application` takes, as `keras.applications` has them."""
    return [
        name
        for name, function in vars(keras.applications).items()
        if inspect.isfunction(function)
        and {"include_top", "weights"} <= inspect.signature(function).parameters.keys()
    ]


def settings_of_network(network: str) -> dict[str, object]:
    """Returns the arguments of a network that `Application` passes on -> defaults."""
    parameters = inspect.signature(getattr(keras.applications, network)).parameters
    return {
        name: parameter.default
        for name, parameter in parameters.items()
        if isinstance(parameter.default, (int, float)) and name not in _SET_HERE
    }


def Application(
    network: str,
    embedding_dim: int = 512,
    input_size: int = 112,
    pooling: str = "depthwise",
    stem_stride: int = 2,
    dropout: float = 0.0,
    name: str | None = None,
    **network_arguments: Any,
) -> keras.Model:
    """Builds a network of `keras.applications` from uint8 RGB images to embeddings.

    Its classifier goes; behind its last features come a global depthwise convolution
    (or none), and the projection of all backbones here. Its weights are random.

    Args:
        network: One of `list_applications()`, such as "MobileNetV3Small".
        pooling: "depthwise": one kernel a channel, as large as the features; "flatten":
            all features are projected, `size^2` times as many weights.
        stem_stride: 2, or 1 to leave out the first stride. These networks are made for
            224 pixels; at 112 and stride 2 the last features are 4x4.
        **network_arguments: Arguments of the network, such as `alpha`.

    Other arguments, result and errors are those of `MobileFaceNet`.
    """
    check_choice("network", network, list_applications())
    check_choice("pooling", pooling, ("depthwise", "flatten"))
    check_choice("stem_stride", stem_stride, (1, 2))
    check_range("embedding_dim", embedding_dim, low=1)
    check_range("dropout", dropout, low=0, high=1, high_open=True)
    make = getattr(keras.applications, network)
    network_arguments.update(include_top=False, weights=None)
    network_arguments["input_shape"] = (input_size, input_size, 3)
    if "include_preprocessing" in inspect.signature(make).parameters:
        network_arguments["include_preprocessing"] = False
    image, pixels = blocks.image_input(input_size)
    if network.startswith(_TAKE_PIXELS):
        pixels = PixelNormalization(0.0, 1.0, name="pixels")(image)
    try:
        features = make(input_tensor=pixels, **network_arguments)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"`network={network}` cannot be built: {reason}") from error
    features = _adapted(features, stem_stride)
    x = features.output
    if pooling == "depthwise":
        x = blocks.global_depthwise(x)
    x = blocks.embedding_output(x, embedding_dim, dropout)
    return keras.Model(features.inputs[0], x, name=name or network.lower())


def _adapted(model, stem_stride):
    """Returns a copy with the first stride as asked for, and our normalisation."""
    is_first = stem_stride == 1

    def copy(layer):
        nonlocal is_first
        kind, config = type(layer), layer.get_config()
        if is_first and set(np.ravel(config.get("strides", 1))) == {2}:
            is_first, config["strides"] = False, (1, 1)
        if kind is keras.layers.BatchNormalization:
            # Averages over 1,000 steps, as some have, lag behind a short training.
            kind, config["momentum"] = BatchNormalization, 0.9
        return kind.from_config(config)

    reason = "none of its layers has a stride of 2"
    try:
        copied = keras.models.clone_model(model, clone_function=copy)
        if not is_first:
            return copied
    except ValueError as error:
        reason = str(error)
    raise ValueError(
        f"`stem_stride=1` does not fit {model.name}: {reason}. Leave it at 2"
    )
