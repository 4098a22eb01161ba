"""Backbones: uint8 images to embeddings."""

from ekd_tf.models.iresnet import IResNet
from ekd_tf.models.layers import PixelNormalization
from ekd_tf.models.layers import PReLU
from ekd_tf.models.mobilefacenet import MobileFaceNet
from ekd_tf.models.presets import build_backbone
from ekd_tf.models.presets import count_parameters
from ekd_tf.models.presets import list_backbones
from ekd_tf.models.torch_weights import load_torch_weights

__all__ = [
    "IResNet",
    "MobileFaceNet",
    "PReLU",
    "PixelNormalization",
    "build_backbone",
    "count_parameters",
    "list_backbones",
    "load_torch_weights",
]
