"""Residual networks of insightface, the usual teachers."""

from __future__ import annotations

import keras

from ekd_tf.checks import check_choice
from ekd_tf.models import blocks

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

    Layers carry the names of the reference's torch modules. The scale of the last
    batch normalisation, which is 1 there and never trained, is not a weight here.

    `depth` is a key of `BLOCKS`; other arguments and the result are those of
    `MobileFaceNet`.

    Reference:
        Duta et al., 2020, arXiv:2004.04989; the form of insightface
        `recognition/arcface_torch/backbones/iresnet.py`: nothing after the addition,
        the stride in the second convolution. Departs from it in the initial weights:
        normal with variance 2 / fan_out instead of 0.01.
    """
    check_choice("depth", depth, tuple(BLOCKS))
    blocks.check_backbone(embedding_dim, width, input_size, dropout)

    def block(x, filters, stride, name):
        shortcut = x
        if stride != 1 or x.shape[-1] != filters:
            shortcut = blocks.conv(x, filters, 1, f"{name}.downsample.0", stride=stride)
            shortcut = blocks.batch_norm(shortcut, name=f"{name}.downsample.1")
        x = blocks.batch_norm(x, name=f"{name}.bn1")
        x = blocks.conv(x, filters, 3, f"{name}.conv1")
        x = blocks.batch_norm(x, name=f"{name}.bn2")
        x = blocks.activate(x, "prelu", name=f"{name}.prelu")
        x = blocks.conv(x, filters, 3, f"{name}.conv2", stride=stride)
        x = blocks.batch_norm(x, name=f"{name}.bn3")
        return keras.layers.Add(name=f"{name}.add")([x, shortcut])

    image, x = blocks.image_input(input_size)
    x = blocks.conv(x, blocks.scaled_channels(64, width), 3, "conv1")
    x = blocks.batch_norm(x, name="bn1")
    x = blocks.activate(x, "prelu", name="prelu")
    for stage, num_blocks in enumerate(BLOCKS[depth]):
        filters = blocks.scaled_channels(64 * 2**stage, width)
        for index in range(num_blocks):
            stride = 2 if index == 0 else 1
            x = block(x, filters, stride, f"layer{stage + 1}.{index}")
    x = blocks.batch_norm(x, name="bn2")
    names, options = ("fc", "features"), {"use_bias": True, "scale": False}
    x = blocks.embedding_output(x, embedding_dim, dropout, names, **options)
    return keras.Model(image, x, name=name or f"iresnet{depth}")
