"""Backbones: uint8 images to embeddings."""

from ekd_tf.models.ir import IR
from ekd_tf.models.iresnet import IResNet
from ekd_tf.models.layers import PixelNormalization
from ekd_tf.models.layers import PReLU
from ekd_tf.models.mbf import MBF
from ekd_tf.models.mobilefacenet import MobileFaceNet
from ekd_tf.models.presets import BACKBONES
from ekd_tf.models.presets import build_backbone
from ekd_tf.models.presets import count_parameters
from ekd_tf.models.presets import list_backbones
from ekd_tf.models.torch_families import TORCH_FAMILIES
from ekd_tf.models.torch_families import build_from_torch
from ekd_tf.models.torch_families import load_torch_weights

__all__ = [
    "BACKBONES",
    "IR",
    "IResNet",
    "MBF",
    "MobileFaceNet",
    "PReLU",
    "PixelNormalization",
    "TORCH_FAMILIES",
    "build_backbone",
    "build_from_torch",
    "count_parameters",
    "list_backbones",
    "load_torch_weights",
]
