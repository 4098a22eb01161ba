"""Backbones: uint8 images to embeddings."""

from __future__ import annotations

import functools
from collections.abc import Callable

import keras

from ekd_tf.models.ghostfacenet import GhostFaceNet
from ekd_tf.models.ir import IR as IR
from ekd_tf.models.iresnet import BLOCKS
from ekd_tf.models.iresnet import IResNet as IResNet
from ekd_tf.models.layers import PReLU as PReLU
from ekd_tf.models.mbf import MBF as MBF
from ekd_tf.models.mbf import MBF_SIZES
from ekd_tf.models.mobilefacenet import MobileFaceNet as MobileFaceNet
from ekd_tf.models.torch_families import build_from_torch as build_from_torch

# What `--model` calls them.
BACKBONES: dict[str, Callable[..., keras.Model]] = {
    "mobilefacenet": MobileFaceNet,
    **{
        f"ghostfacenet_v{v}": functools.partial(GhostFaceNet, version=v) for v in (1, 2)
    },
    **{name: functools.partial(MBF, variant=name) for name in MBF_SIZES},
    **{f"iresnet{depth}": functools.partial(IResNet, depth=depth) for depth in BLOCKS},
}


def count_parameters(model: keras.Model) -> int:
    """Returns the number of learned scalars, frozen or not, as torch counts them."""
    statistics = ("moving_mean", "moving_variance")
    learned = [
        weight
        for layer in model.layers
        for weight in layer.weights
        if weight.name.split("/")[-1].split(":")[0] not in statistics
    ]
    return sum(int(weight.shape.num_elements()) for weight in learned)
