"""insightface's own form of MobileFaceNet."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from ekd_tf.checks import check_choice
from ekd_tf.keras_compat import register
from ekd_tf.models import blocks

# Blocks of the four stages, and how often more channels the blocks' outputs have than
# MobileFaceNet's.
MBF_SIZES = {"mbf": ((1, 4, 6, 2), 2), "mbf_large": ((2, 8, 12, 4), 4)}


@register
class GroupSum(keras.layers.Layer):
    """Completes a convolution in groups that a depthwise one has begun.

    A convolution that mixes the `size` channels of each group and no others is a
    depthwise one with `size` outputs a channel, of which those of one group are added:
    `(batch, height, width, channels * size)` to `(..., channels)`. Keras has the former
    too; on CPUs it takes fifteen times as long.
    """

    def __init__(self, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = int(size)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        height, width, parts = inputs.shape[1:]
        size = self.size
        by_group = [-1, height, width, parts // size**2, size, size]
        summed = tf.reduce_sum(tf.reshape(inputs, by_group), axis=-2)
        return tf.reshape(summed, [-1, height, width, parts // size])

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (*input_shape[:-1], input_shape[-1] // self.size)

    def get_config(self) -> dict:
        return {**super().get_config(), "size": self.size}


def MBF(
    variant: str = "mbf",
    embedding_dim: int = 512,
    width: float = 1.0,
    input_size: int = 112,
    dropout: float = 0.0,
    name: str | None = None,
) -> keras.Model:
    """Builds insightface's `mbf` from uint8 RGB images to embeddings.

    MobileFaceNet with twice as many channels between the blocks (four times for
    "mbf_large") and as many as ever inside them. Its second convolution, depthwise in
    the paper, mixes pairs of channels: upstream doubled the channels there and not the
    groups. Layers carry the names of the reference's torch modules.

    `variant` is a key of `MBF_SIZES`; other arguments and the result are those of
    `MobileFaceNet`.

    Reference:
        insightface `recognition/arcface_torch/backbones/mobilefacenet.py`. Departs
        from it in the initial weights.
    """
    check_choice("variant", variant, tuple(MBF_SIZES))
    blocks.check_backbone(embedding_dim, width, input_size, dropout)
    counts, scale = MBF_SIZES[variant]

    def outside(channels):
        return blocks.scaled_channels(channels * scale, width)

    def linear_block(x, filters, kernel_size, name, **arguments):
        x = blocks.conv(x, filters, kernel_size, f"{name}.layers.0", **arguments)
        if "depth_multiplier" in arguments:
            x = GroupSum(scale, name=f"{name}.layers.0.sum")(x)
        return blocks.batch_norm(x, name=f"{name}.layers.1")

    def conv_block(x, filters, kernel_size, name, **arguments):
        x = linear_block(x, filters, kernel_size, name, **arguments)
        return blocks.activate(x, "prelu", name=f"{name}.layers.2")

    def bottleneck(x, between, filters, name, stride=1):
        x = conv_block(x, blocks.scaled_channels(between, width), 1, f"{name}.layers.0")
        x = conv_block(x, None, 3, f"{name}.layers.1", stride=stride)
        return linear_block(x, filters, 1, f"{name}.layers.2")

    def residual(x, num_blocks, between, name):
        for index in range(num_blocks):
            prefix = f"{name}.layers.{index}"
            branch = bottleneck(x, between, x.shape[-1], prefix)
            x = keras.layers.Add(name=f"{prefix}.add")([x, branch])
        return x

    image, x = blocks.image_input(input_size)
    x = conv_block(x, outside(64), 3, "layers.0", stride=2)
    if counts[0] == 1:
        x = conv_block(x, None, 3, "layers.1", depth_multiplier=scale)
    else:
        x = residual(x, counts[0], 128, "layers.1")
    x = bottleneck(x, 128, outside(64), "layers.2", stride=2)
    x = residual(x, counts[1], 128, "layers.3")
    x = bottleneck(x, 256, outside(128), "layers.4", stride=2)
    x = residual(x, counts[2], 256, "layers.5")
    x = bottleneck(x, 512, outside(128), "layers.6", stride=2)
    x = residual(x, counts[3], 256, "layers.7")
    x = conv_block(x, blocks.scaled_channels(512, width), 1, "conv_sep")
    x = linear_block(x, None, x.shape[1], "features.layers.0", padded=False)
    names = "features.layers.2", "features.layers.3"
    x = blocks.embedding_output(x, embedding_dim, dropout, names)
    return keras.Model(image, x, name=name or variant)
