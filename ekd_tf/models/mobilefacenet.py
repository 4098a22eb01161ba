"""The student network of the EKD paper."""

from __future__ import annotations

import keras

from ekd_tf.checks import check_choice
from ekd_tf.models import blocks

# (torch name, channels in between, channels out, residual blocks; 0 means one block
# of stride 2 without a shortcut)
STAGES = (
    ("conv_23", 128, 64, 0),
    ("conv_3", 128, 64, 4),
    ("conv_34", 256, 128, 0),
    ("conv_4", 256, 128, 6),
    ("conv_45", 512, 128, 0),
    ("conv_5", 256, 128, 2),
)


def MobileFaceNet(
    embedding_dim: int = 512,
    width: float = 1.0,
    activation: str = "prelu",
    input_size: int = 112,
    last_bn_affine: bool = False,
    dropout: float = 0.0,
    name: str = "mobilefacenet",
) -> keras.Model:
    """Builds a MobileFaceNet from uint8 RGB images to embeddings.

    At the defaults 1,199,488 parameters, counted by `count_parameters`, and 221 M
    multiply-accumulates. Layers carry the names of the reference's torch modules, so
    `load_torch_weights` needs no table.

    Args:
        embedding_dim: Int >= 1.
        width: Float > 0, multiplies every number of channels but `embedding_dim`;
            the products are rounded to multiples of 8.
        activation: "prelu" (one learned slope per channel, 0.25 at first), "relu"
            (the one to choose for int8) or "leaky_relu" (slope 0.25).
        input_size: Int, pixels: a multiple of 8 from 32 up.
        last_bn_affine: Whether the last batch normalisation learns a scale and an
            offset. The reference's does not.
        dropout: Float in [0, 1), rate between the features and the projection.
        name: The model's name.

    Returns:
        A model with input `image`, uint8 `(batch, input_size, input_size, 3)`, and
        output `embedding`, float32 `(batch, embedding_dim)` under every dtype policy
        and not normalised; pixels 0..255 become (pixel - 127.5) / 127.5. Keras casts
        float images to uint8, dropping fractions: give it no pixels in 0..1.

    Reference:
        Chen et al., 2018, arXiv:1804.07573; the form of TFace
        `torchkit/backbone/model_mobilefacenet.py`. Departs from it in the initial
        weights: normal with variance 2 / fan_out, where a depthwise kernel counts
        the outputs of its own channel only.
    """
    blocks.check_backbone(embedding_dim, width, input_size, dropout)
    check_choice("activation", activation, blocks.ACTIVATIONS)

    def conv_bn(x, filters, kernel_size, name, **arguments):
        x = blocks.conv(x, filters, kernel_size, f"{name}.conv", **arguments)
        return blocks.batch_norm(x, name=f"{name}.bn")

    def conv_bn_act(x, filters, kernel_size, name, **arguments):
        x = conv_bn(x, filters, kernel_size, name, **arguments)
        return blocks.activate(x, activation, name=f"{name}.prelu")

    def bottleneck(x, between, filters, name, stride=1):
        x = conv_bn_act(x, between, 1, f"{name}.conv")
        x = conv_bn_act(x, None, 3, f"{name}.conv_dw", stride=stride)
        return conv_bn(x, filters, 1, f"{name}.project")

    image, x = blocks.image_input(input_size)
    x = conv_bn_act(x, blocks.scaled_channels(64, width), 3, "conv1", stride=2)
    x = conv_bn_act(x, None, 3, "conv2_dw")
    for stage, between, filters, num_residual in STAGES:
        between = blocks.scaled_channels(between, width)
        filters = blocks.scaled_channels(filters, width)
        if num_residual == 0:
            x = bottleneck(x, between, filters, stage, stride=2)
        for block in range(num_residual):
            prefix = f"{stage}.model.{block}"
            branch = bottleneck(x, between, filters, prefix)
            x = keras.layers.Add(name=f"{prefix}.add")([x, branch])
    x = conv_bn_act(x, blocks.scaled_channels(512, width), 1, "conv_6_sep")
    x = conv_bn(x, None, x.shape[1], "output_layer.conv_6_dw", padded=False)
    names = "output_layer.linear", "output_layer.bn"
    affine = {"center": last_bn_affine, "scale": last_bn_affine}
    x = blocks.embedding_output(x, embedding_dim, dropout, names, **affine)
    return keras.Model(image, x, name=name)
