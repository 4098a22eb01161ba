"""Pieces of several backbones: padding as torch has it, initial weights, sizes."""

from __future__ import annotations

from typing import Any

import keras

from ekd_tf.checks import check_choice
from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range
from ekd_tf.models.layers import BatchNormalization
from ekd_tf.models.layers import PixelNormalization
from ekd_tf.models.layers import PReLU

ACTIVATIONS = ("prelu", "relu", "leaky_relu")
INITIAL_SLOPE = 0.25


def scaled_channels(channels: int, width: float) -> int:
    """Returns `channels * width` as the nearest multiple of 8, at least 8."""
    return max(8, int(channels * width / 8 + 0.5) * 8)


def check_backbone(
    embedding_dim: int, width: float, input_size: int, dropout: float
) -> None:
    """Raises `ValueError` for a size that no backbone here can be built with."""
    check_range("embedding_dim", embedding_dim, low=1)
    check_positive("width", width)
    check_range("dropout", dropout, low=0, high=1, high_open=True)
    if input_size < 32 or input_size % 8:
        raise ValueError(
            "`input_size` must be a multiple of 8 pixels from 32 up. "
            f"Received: input_size={input_size}"
        )


def image_input(input_size: int) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Returns the uint8 input `image` and its normalised pixels."""
    image = keras.Input(shape=(input_size, input_size, 3), dtype="uint8", name="image")
    return image, PixelNormalization(name="pixel_normalization")(image)


def he_normal() -> keras.initializers.Initializer:
    """Returns a new normal initializer of variance `2 / fan_out`.

    Keras counts `k * k` outputs for a depthwise kernel, which is what each channel
    sees; torch counts `channels * k * k`. New for every kernel: in Keras 3 one
    instance gives equal values to every kernel of a shape.
    """
    return keras.initializers.VarianceScaling(
        scale=2.0, mode="fan_out", distribution="untruncated_normal"
    )


def conv(
    x: keras.KerasTensor,
    filters: int | None,
    kernel_size: int,
    name: str,
    stride: int = 1,
    padded: bool = True,
    depth_multiplier: int = 1,
    as_torch: bool = True,
) -> keras.KerasTensor:
    """Applies a convolution without bias, padded on all sides as torch pads.

    By half of an odd `kernel_size`, if `padded`. `filters` of None make it depthwise,
    with `depth_multiplier` outputs of each channel.
    """
    # Keras' "same" pads a strided convolution on the far side only.
    padding = "same" if padded and (stride == 1 or not as_torch) else "valid"
    if padded and padding == "valid" and kernel_size > 1:
        x = keras.layers.ZeroPadding2D(padding=kernel_size // 2, name=f"{name}.pad")(x)
    arguments = {"strides": stride, "padding": padding, "use_bias": False, "name": name}
    if filters is None:
        arguments["depth_multiplier"] = depth_multiplier
        return keras.layers.DepthwiseConv2D(
            kernel_size, depthwise_initializer=he_normal(), **arguments
        )(x)
    return keras.layers.Conv2D(
        filters, kernel_size, kernel_initializer=he_normal(), **arguments
    )(x)


def batch_norm(x: keras.KerasTensor, name: str, **kwargs: Any) -> keras.KerasTensor:
    """Applies batch normalisation with torch's epsilon and momentum."""
    return BatchNormalization(epsilon=1e-5, momentum=0.9, name=name, **kwargs)(x)


def activate(x: keras.KerasTensor, activation: str, name: str) -> keras.KerasTensor:
    """Applies the activation named by one of `ACTIVATIONS`."""
    check_choice("activation", activation, ACTIVATIONS)
    if activation == "prelu":
        return PReLU(initial_slope=INITIAL_SLOPE, name=name)(x)
    if activation == "relu":
        return keras.layers.ReLU(name=name)(x)
    # Positional: the argument is called `alpha` in Keras 2, `negative_slope` in 3.
    return keras.layers.LeakyReLU(INITIAL_SLOPE, name=name)(x)


def embedding_output(
    x: keras.KerasTensor,
    embedding_dim: int,
    dropout: float,
    names: tuple[str, str] = ("projection", "projection.bn"),
    use_bias: bool = False,
    **norm_arguments: bool,
) -> keras.KerasTensor:
    """Flattens, projects and normalises features to the output `embedding`.

    All of it in float32 under every policy: similarities near a threshold differ by
    less than half precision resolves. `names` are of the projection, whose is
    `use_bias`, and of the batch normalisation, whose are `norm_arguments`.
    """
    x = keras.layers.Flatten(dtype="float32", name="flatten")(x)
    if dropout > 0:
        x = keras.layers.Dropout(rate=dropout, dtype="float32", name="dropout")(x)
    x = keras.layers.Dense(
        units=embedding_dim,
        use_bias=use_bias,
        kernel_initializer=keras.initializers.GlorotNormal(),
        dtype="float32",
        name=names[0],
    )(x)
    x = batch_norm(x, names[1], dtype="float32", **norm_arguments)
    return keras.layers.Activation("linear", dtype="float32", name="embedding")(x)


def global_depthwise(x: keras.KerasTensor) -> keras.KerasTensor:
    """Weights all places of each channel's features by one kernel, and normalises."""
    x = conv(x, None, x.shape[1], "global_depthwise", padded=False)
    return batch_norm(x, name="global_depthwise.bn")
