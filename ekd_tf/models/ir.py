"""Residual networks of TFace, teachers of the EKD paper."""

from __future__ import annotations

import keras

from ekd_tf.checks import check_choice
from ekd_tf.models import blocks

IR_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    101: (3, 13, 30, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
# These have blocks of three convolutions, wide outside and narrow inside.
BOTTLENECK_DEPTHS = (152, 200)


def IR(
    depth: int = 50,
    embedding_dim: int = 512,
    width: float = 1.0,
    input_size: int = 112,
    last_bn_affine: bool = False,
    dropout: float = 0.0,
    name: str | None = None,
) -> keras.Model:
    """Builds an IR network from uint8 RGB images to embeddings.

    An `IResNet` but for two things: where a block keeps the number of channels its
    shortcut has no weights, also where it halves the image, and the last batch
    normalisation learns neither scale nor offset. Layers carry the names of the
    reference's torch modules.

    `depth` is a key of `IR_BLOCKS`; other arguments and the result are those of
    `MobileFaceNet`.

    Reference:
        TFace `torchkit/backbone/model_irse.py`, mode "ir", which continues
        face.evoLVe's. Departs from it in the initial slopes and matrix.
    """
    check_choice("depth", depth, tuple(IR_BLOCKS))
    blocks.check_backbone(embedding_dim, width, input_size, dropout)
    is_bottleneck = depth in BOTTLENECK_DEPTHS
    channels = 256 if is_bottleneck else 64

    def block(x, filters, stride, name):
        shortcut = x
        if x.shape[-1] != filters:
            shortcut = blocks.conv(x, filters, 1, f"{name}.shortcut_layer.0", stride)
            shortcut = blocks.batch_norm(shortcut, name=f"{name}.shortcut_layer.1")
        elif stride != 1:
            # A pool of one pixel takes every second one.
            shortcut = keras.layers.MaxPooling2D(
                pool_size=1, strides=stride, name=f"{name}.shortcut_layer"
            )(x)
        # (filters, kernel size, stride) of each convolution.
        plan = [(filters, 3, 1), (filters, 3, stride)]
        if is_bottleneck:
            inner = filters // 4
            plan = [(inner, 1, 1), (inner, 3, 1), (filters, 1, stride)]
        layer = f"{name}.res_layer"
        x = blocks.batch_norm(x, name=f"{layer}.0")
        for place, (outputs, kernel_size, step) in zip(range(0, 9, 3), plan):
            if place > 0:
                x = blocks.activate(x, "prelu", name=f"{layer}.{place}")
            x = blocks.conv(x, outputs, kernel_size, f"{layer}.{place + 1}", step)
            x = blocks.batch_norm(x, name=f"{layer}.{place + 2}")
        return keras.layers.Add(name=f"{name}.add")([x, shortcut])

    image, x = blocks.image_input(input_size)
    x = blocks.conv(x, blocks.scaled_channels(64, width), 3, "input_layer.0")
    x = blocks.batch_norm(x, name="input_layer.1")
    x = blocks.activate(x, "prelu", name="input_layer.2")
    number = 0
    for stage, num_blocks in enumerate(IR_BLOCKS[depth]):
        filters = blocks.scaled_channels(channels * 2**stage, width)
        for index in range(num_blocks):
            x = block(x, filters, 2 if index == 0 else 1, f"body.{number}")
            number += 1
    x = blocks.batch_norm(x, name="output_layer.0")
    names = "output_layer.3", "output_layer.4"
    options = {"use_bias": True, "center": last_bn_affine, "scale": last_bn_affine}
    x = blocks.embedding_output(x, embedding_dim, dropout, names, **options)
    return keras.Model(image, x, name=name or f"ir{depth}")
