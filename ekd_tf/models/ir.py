"""Residual networks of TFace, teachers of the EKD paper."""

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

    Args:
        depth: 18, 34, 50, 101, 152 or 200.
        name: The model's name; "ir" and the depth by default.

    Other arguments and the result are those of `MobileFaceNet`.

    Reference:
        TFace `torchkit/backbone/model_irse.py`, mode "ir", which continues
        face.evoLVe's. Departs from it in the initial slopes and matrix.
    """
    check_choice("depth", depth, tuple(IR_BLOCKS))
    check_backbone(embedding_dim, width, input_size, dropout)
    is_bottleneck = depth in BOTTLENECK_DEPTHS

    def block(x, filters, stride, name):
        shortcut = x
        if x.shape[-1] != filters:
            shortcut = conv(x, filters, 1, f"{name}.shortcut_layer.0", stride=stride)
            shortcut = batch_norm(shortcut, name=f"{name}.shortcut_layer.1")
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
        x = batch_norm(x, name=f"{name}.res_layer.0")
        for index, (outputs, kernel_size, step) in enumerate(plan):
            place = 3 * index
            layer = f"{name}.res_layer"
            if index > 0:
                x = activate(x, "prelu", name=f"{layer}.{place}")
            x = conv(x, outputs, kernel_size, f"{layer}.{place + 1}", stride=step)
            x = batch_norm(x, name=f"{layer}.{place + 2}")
        return keras.layers.Add(name=f"{name}.add")([x, shortcut])

    image, x = image_input(input_size)
    x = conv(x, scaled_channels(64, width), 3, "input_layer.0")
    x = batch_norm(x, name="input_layer.1")
    x = activate(x, "prelu", name="input_layer.2")
    number = 0
    for stage, num_blocks in enumerate(IR_BLOCKS[depth]):
        filters = scaled_channels((256 if is_bottleneck else 64) * 2**stage, width)
        for index in range(num_blocks):
            x = block(x, filters, 2 if index == 0 else 1, f"body.{number}")
            number += 1
    x = batch_norm(x, name="output_layer.0")
    linear, norm = "output_layer.3", "output_layer.4"
    affine = {"center": last_bn_affine, "scale": last_bn_affine}
    embedding = embedding_output(
        x, embedding_dim, dropout, linear, norm, True, **affine
    )
    return keras.Model(inputs=image, outputs=embedding, name=name or f"ir{depth}")
