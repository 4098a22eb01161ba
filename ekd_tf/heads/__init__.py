"""Margin heads: embeddings and labels to logits, logits to the loss."""

from ekd_tf.heads.arcface import ArcFace
from ekd_tf.heads.arcface import arcface_target
from ekd_tf.heads.base import MarginHead
from ekd_tf.heads.cosface import CosFace
from ekd_tf.heads.cosface import cosface_target
from ekd_tf.heads.softmax import check_labels
from ekd_tf.heads.softmax import margin_softmax_loss

__all__ = [
    "ArcFace",
    "CosFace",
    "MarginHead",
    "arcface_target",
    "check_labels",
    "cosface_target",
    "margin_softmax_loss",
]
