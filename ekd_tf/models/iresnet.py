"""Residual networks of insightface, the usual teachers."""

from __future__ import annotations

import keras

from ekd_tf.checks import check_choice
from ekd_tf.models.blocks import activate
from ekd_tf.models.blocks import batch_norm
from ekd_tf.models.blocks import check_backbone
from ekd_tf.models.blocks import conv
from ekd_tf.models.blocks import embedding_output
from ekd_tf.models.blocks import image_input
from ekd_tf.models.blocks import scaled_channels

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    100: (3, 13, 30, 3),
    200: (6, 26, 60, 6),
}


def IResNet(
    depth: int = 50,
    embedding_dim: int = 512,
    width: float = 1.0,
    input_size: int = 112,
    dropout: float = 0.0,
    name: str | None = None,
) -> keras.Model:
    """Builds an IResNet from uint8 RGB images to embeddings.

    At the defaults of the other arguments the depths have 24,025,600, 34,139,328,
    43,590,848, 65,156,160 and 118,833,920 parameters as torch counts them. Torch
    counts the scale of the last batch normalisation too, which is 1 and never
    trained; it is not a weight here, so `count_parameters` gives `embedding_dim`
    less. Layers carry the names of the reference's torch modules.

    Args:
        depth: 18, 34, 50, 100 or 200.
        name: The model's name; "iresnet" and the depth by default.

    Other arguments and the result are those of `MobileFaceNet`.

    Reference:
        Duta et al., 2020, arXiv:2004.04989; the form of insightface
        `recognition/arcface_torch/backbones/iresnet.py`: nothing after the addition,
        the stride in the second convolution. Departs from it in the initial weights:
        normal with variance 2 / fan_out instead of 0.01.
    """
    check_choice("depth", depth, tuple(BLOCKS))
    check_backbone(embedding_dim, width, input_size, dropout)

    def block(x, filters, stride, name):
        shortcut = x
        if stride != 1 or x.shape[-1] != filters:
            shortcut = conv(x, filters, 1, f"{name}.downsample.0", stride=stride)
            shortcut = batch_norm(shortcut, name=f"{name}.downsample.1")
        x = batch_norm(x, name=f"{name}.bn1")
        x = conv(x, filters, 3, f"{name}.conv1")
        x = batch_norm(x, name=f"{name}.bn2")
        x = activate(x, "prelu", name=f"{name}.prelu")
        x = conv(x, filters, 3, f"{name}.conv2", stride=stride)
        x = batch_norm(x, name=f"{name}.bn3")
        return keras.layers.Add(name=f"{name}.add")([x, shortcut])

    image, x = image_input(input_size)
    x = conv(x, scaled_channels(64, width), 3, "conv1")
    x = batch_norm(x, name="bn1")
    x = activate(x, "prelu", name="prelu")
    for stage, num_blocks in enumerate(BLOCKS[depth]):
        filters = scaled_channels(64 * 2**stage, width)
        for index in range(num_blocks):
            stride = 2 if index == 0 else 1
            x = block(x, filters, stride, f"layer{stage + 1}.{index}")
    x = batch_norm(x, name="bn2")
    embedding = embedding_output(
        x, embedding_dim, dropout, "fc", "features", use_bias=True, scale=False
    )
    return keras.Model(inputs=image, outputs=embedding, name=name or f"iresnet{depth}")
