"""GhostFaceNet: few true convolutions, and cheap depthwise ones for the other half."""

from __future__ import annotations

import keras

from ekd_tf.checks import check_choice
from ekd_tf.models import blocks
from ekd_tf.models.layers import NearestResize

# Side of the depthwise kernels, channels in between, channels out, whether channels are
# weighted by squeeze and excitation, stride.
STAGES = (
    (3, 16, 16, False, 1),
    (3, 48, 24, False, 2),
    (3, 72, 24, False, 1),
    (5, 72, 40, True, 2),
    (5, 120, 40, True, 1),
    (3, 240, 80, False, 2),
    (3, 200, 80, False, 1),
    (3, 184, 80, False, 1),
    (3, 184, 80, False, 1),
    (3, 480, 112, True, 1),
    (3, 672, 112, True, 1),
    (5, 672, 160, True, 2),
    (5, 960, 160, False, 1),
    (5, 960, 160, True, 1),
    (5, 960, 160, False, 1),
    # In between here V1 has 512 channels, V2 960.
    (5, None, 160, True, 1),
)
LAST_CHANNELS = {1: 512, 2: 960}
# Slope at 0 of the hard sigmoid that weights channels: of Keras 2, and of torch.
HARD_SIGMOID_SLOPES = {1: 0.2, 2: 1.0 / 6.0}
# V2's stages without attention, the first ones.
PLAIN_STAGES = 2


def GhostFaceNet(
    version: int = 2,
    embedding_dim: int = 512,
    width: float = 1.3,
    stem_stride: int = 1,
    activation: str = "prelu",
    input_size: int = 112,
    dropout: float = 0.0,
    name: str | None = None,
) -> keras.Model:
    """Builds a GhostFaceNet from uint8 RGB images to embeddings.

    GhostFaceNetV2 at the defaults is the published GhostFaceNetV2-1.3-1.

    Args:
        version: 1 or 2; the second weights most stages by an attention along rows and
            columns.
        width: Float > 0, multiplies every number of channels but `embedding_dim`;
            the products are rounded to multiples of 4.
        stem_stride: 1, or 2 for a quarter of the multiply-adds.
        activation: One of `ACTIVATIONS`; published are "prelu".

    Other arguments, result and errors are those of `MobileFaceNet`.

    Reference:
        Alansari et al., 2023, IEEE Access 11, "GhostFaceNets"; the form of their
        repository: V1 of GhostNet (arXiv:1911.11907), V2 of GhostNetV2
        (arXiv:2211.12905), a global depthwise convolution behind. Pads as TensorFlow's
        "same", not as torch. Upstream divides pixels by 128.
    """
    check_choice("version", version, tuple(LAST_CHANNELS))
    check_choice("stem_stride", stem_stride, (1, 2))
    check_choice("activation", activation, blocks.ACTIVATIONS)
    blocks.check_backbone(embedding_dim, width, input_size, dropout)
    if input_size < 32 * stem_stride:
        raise ValueError(
            "`input_size` must be 64 or more with stem_stride=2, since four more "
            f"strides follow. Received: input_size={input_size}"
        )

    def conv_bn(x, filters, kernel_size, name, stride=1):
        x = blocks.conv(x, filters, kernel_size, name, stride, as_torch=False)
        return blocks.batch_norm(x, name=f"{name}.bn")

    def ghost(x, filters, name, active=True, attended=False):
        def part(x, filters, kernel_size, name):
            x = conv_bn(x, filters, kernel_size, name)
            if active:
                x = blocks.activate(x, activation, f"{name}.{activation}")
            return x

        primary = part(x, -(-filters // 2), 1, f"{name}.primary")
        cheap = part(primary, None, 3, f"{name}.cheap")
        y = keras.layers.Concatenate(name=f"{name}.concat")([primary, cheap])
        if attended:
            weights = attention(x, filters, f"{name}.attention")
            y = keras.layers.Multiply(name=f"{name}.attended")([weights, y])
        return y

    def attention(x, filters, name):
        size = x.shape[1:3]
        x = keras.layers.AveragePooling2D(2, name=f"{name}.pool")(x)
        x = conv_bn(x, filters, 1, f"{name}.conv")
        x = conv_bn(x, None, (1, 5), f"{name}.rows")
        x = conv_bn(x, None, (5, 1), f"{name}.columns")
        x = keras.layers.Activation("sigmoid", name=f"{name}.sigmoid")(x)
        return NearestResize(size, name=f"{name}.resize")(x)

    def pointwise(x, filters, name):
        return keras.layers.Conv2D(
            filters, 1, kernel_initializer=blocks.he_normal(), name=name
        )(x)

    def squeeze_excite(x, name):
        filters = x.shape[-1]
        y = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}.mean")(x)
        y = pointwise(y, _channels(filters / 4), f"{name}.in")
        y = blocks.activate(y, activation, f"{name}.{activation}")
        y = pointwise(y, filters, f"{name}.out")
        # As relu6(6 slope x + 3) / 6, of operations that TFLite has in int8.
        slope = 6.0 * HARD_SIGMOID_SLOPES[version]
        y = keras.layers.Rescaling(slope, 3.0, name=f"{name}.slope")(y)
        y = keras.layers.ReLU(max_value=6.0, name=f"{name}.relu6")(y)
        y = keras.layers.Rescaling(1.0 / 6.0, name=f"{name}.sigmoid")(y)
        return keras.layers.Multiply(name=f"{name}.excite")([x, y])

    image, x = blocks.image_input(input_size)
    x = conv_bn(x, _channels(16 * width), 3, "stem", stride=stem_stride)
    x = blocks.activate(x, activation, f"stem.{activation}")
    last = _channels(LAST_CHANNELS[version] * width)
    for number, (kernel, between, filters, excites, stride) in enumerate(STAGES):
        name_of = f"stage{number + 1}".__add__
        filters = _channels(filters * width)
        between = last if between is None else _channels(between * width)
        shortcut = x
        if stride > 1 or filters != x.shape[-1]:
            shortcut = conv_bn(x, None, kernel, name_of(".shortcut.depth"), stride)
            shortcut = conv_bn(shortcut, filters, 1, name_of(".shortcut.point"))
        attended = version == 2 and number >= PLAIN_STAGES
        x = ghost(x, between, name_of(".ghost1"), attended=attended)
        if stride > 1:
            x = conv_bn(x, None, kernel, name_of(".down"), stride)
        if excites:
            x = squeeze_excite(x, name_of(".se"))
        x = ghost(x, filters, name_of(".ghost2"), active=False)
        x = keras.layers.Add(name=name_of(".add"))([shortcut, x])
    x = conv_bn(x, last, 1, "last")
    x = blocks.activate(x, activation, f"last.{activation}")
    x = blocks.embedding_output(blocks.global_depthwise(x), embedding_dim, dropout)
    return keras.Model(image, x, name=name or f"ghostfacenet_v{version}")


def _channels(number):
    """Returns the nearest multiple of 4, and no more than a tenth below `number`."""
    rounded = max(4, int(number + 2) // 4 * 4)
    return rounded + 4 if rounded < 0.9 * number else rounded
