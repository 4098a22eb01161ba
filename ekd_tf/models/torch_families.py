"""The torch networks whose state_dicts become backbones, and how to tell them apart."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping

import keras
import numpy as np

from ekd_tf.checks import check_choice
from ekd_tf.models.ir import BOTTLENECK_DEPTHS
from ekd_tf.models.ir import IR
from ekd_tf.models.ir import IR_BLOCKS
from ekd_tf.models.iresnet import BLOCKS
from ekd_tf.models.iresnet import IResNet
from ekd_tf.models.mbf import MBF
from ekd_tf.models.mbf import MBF_SIZES
from ekd_tf.models.mobilefacenet import MobileFaceNet
from ekd_tf.models.torch_weights import load_torch_weights

COLORS = ("rgb", "bgr")


@dataclasses.dataclass(frozen=True)
class _Family:
    """A torch network.

    Attributes:
        build: Takes `embedding_dim`, `width`, `input_size`.
        first: The module that takes the pixels.
        first_channels: Int, its outputs at width 1.
        linear: The projection.
        spread: The module before it: a depthwise convolution over all that is left of
            the image, or the batch normalisation of the features that are flattened.
        optional_scale: The batch normalisation that learns a scale in some upstreams.
    """

    build: Callable[..., keras.Model]
    first: str
    first_channels: int
    linear: str
    spread: str
    optional_scale: str | None = None


_FAMILIES = {
    **{
        f"insightface_r{depth}": _Family(
            functools.partial(IResNet, depth=depth), "conv1", 64, "fc", "bn2"
        )
        for depth in BLOCKS
    },
    **{
        f"insightface_{variant}": _Family(
            functools.partial(MBF, variant=variant),
            "layers.0.layers.0",
            64 * scale,
            "features.layers.2",
            "features.layers.0.layers.0",
        )
        for variant, (_, scale) in MBF_SIZES.items()
    },
    **{
        f"tface_ir_{depth}": _Family(
            functools.partial(IR, depth=depth),
            "input_layer.0",
            64,
            "output_layer.3",
            "output_layer.0",
            "output_layer.4",
        )
        for depth in IR_BLOCKS
    },
    "tface_mobilefacenet": _Family(
        MobileFaceNet,
        "conv1.conv",
        64,
        "output_layer.linear",
        "output_layer.conv_6_dw.conv",
        "output_layer.bn",
    ),
}

TORCH_FAMILIES = tuple(_FAMILIES)


def recognise(keys: Iterable[str]) -> str | None:
    """Returns the family whose modules these keys name, or None.

    It looks at the names that tell families apart; a key may still be missing.
    """
    keys = set(keys)

    def count(pattern):
        matches = [re.match(pattern, key) for key in keys]
        return 1 + max((int(match[1]) for match in matches if match), default=-1)

    if "conv1.weight" in keys:
        stages = tuple(count(rf"layer{stage}\.(\d+)\.") for stage in range(1, 5))
        return {blocks: f"insightface_r{d}" for d, blocks in BLOCKS.items()}.get(stages)
    if "input_layer.0.weight" in keys:
        form = (count(r"body\.(\d+)\."), "body.0.res_layer.7.weight" in keys)
        return {
            (sum(blocks), depth in BOTTLENECK_DEPTHS): f"tface_ir_{depth}"
            for depth, blocks in IR_BLOCKS.items()
        }.get(form)
    if "conv_sep.layers.0.weight" in keys:
        blocks = count(r"layers\.3\.layers\.(\d+)\.")
        return {b[1]: f"insightface_{v}" for v, (b, _) in MBF_SIZES.items()}.get(blocks)
    return "tface_mobilefacenet" if "conv_6_sep.conv.weight" in keys else None


def build_from_torch(
    family: str, arrays: Mapping[str, np.ndarray], color: str = "rgb"
) -> keras.Model:
    """Builds the backbone a torch state_dict belongs to, with its weights.

    The numbers of channels, of dimensions of the embedding and of pixels are those of
    the arrays. Both upstreams feed `(pixel / 255 - 0.5) / 0.5`, and so does the model
    by itself.

    Args:
        family: One of `TORCH_FAMILIES`.
        arrays: Torch key -> array, as for `load_torch_weights`.
        color: "rgb" or "bgr", the order the weights were trained on. Both upstreams
            read RGB; other projects train the same networks on BGR. The model built
            takes RGB either way: its first kernel is turned.

    Returns:
        `keras.Model`, not trainable.

    Raises:
        ValueError: The family is unknown or another one, or a key is missing, left
            over or of another shape.
    """
    check_choice("family", family, TORCH_FAMILIES)
    check_choice("color", color, COLORS)
    actual = recognise(arrays)
    if actual not in (family, None):
        raise ValueError(
            "`family` must be that of the weights, whose keys are those of "
            f"{actual!r}. Received: {family!r}"
        )
    upstream = _FAMILIES[family]
    model = upstream.build(**_sizes(family, upstream, arrays))
    if color == "bgr":
        key = f"{upstream.first}.weight"
        arrays = {**arrays, key: np.asarray(arrays[key])[:, ::-1]}
    load_torch_weights(model, arrays)
    model.trainable = False
    return model


def _sizes(family, upstream, arrays):
    """Returns the builder's arguments, read from the shapes."""
    first, linear, spread = (
        _shape(family, arrays, f"{module}.weight", ranks)
        for module, ranks in (
            (upstream.first, (4,)),
            (upstream.linear, (2,)),
            (upstream.spread, (1, 4)),
        )
    )
    # Either a kernel of its height and width, or as many values a channel.
    side = spread[-1] if len(spread) == 4 else math.isqrt(linear[1] // spread[0])
    sizes = {
        "embedding_dim": linear[0],
        "width": first[0] / upstream.first_channels,
        # Four times halved, rounded up.
        "input_size": 16 * side,
    }
    if upstream.optional_scale:
        sizes["last_bn_affine"] = f"{upstream.optional_scale}.weight" in arrays
    return sizes


def _shape(family, arrays, key, ranks):
    shape = np.shape(arrays[key]) if key in arrays else None
    if shape is None or len(shape) not in ranks or 0 in shape:
        raise ValueError(
            f"The weights of {family!r} must hold `{key}` with "
            f"{' or '.join(map(str, ranks))} dimensions. Received: "
            + ("no such key" if shape is None else f"shape={shape}")
        )
    return shape
