"""Margin heads: embeddings and labels to logits, logits to the loss."""

from ekd_tf.heads.adaface import AdaFace
from ekd_tf.heads.adaface import adaface_target
from ekd_tf.heads.arcface import ArcFace
from ekd_tf.heads.arcface import arcface_target
from ekd_tf.heads.base import MarginHead
from ekd_tf.heads.base import replace_targets
from ekd_tf.heads.combined import CombinedMargin
from ekd_tf.heads.combined import combined_target
from ekd_tf.heads.cosface import CosFace
from ekd_tf.heads.cosface import cosface_target
from ekd_tf.heads.curricularface import CurricularFace
from ekd_tf.heads.curricularface import curricular_negatives
from ekd_tf.heads.sampling import sample_classes
from ekd_tf.heads.softmax import check_labels
from ekd_tf.heads.softmax import margin_softmax_loss

__all__ = [
    "AdaFace",
    "ArcFace",
    "CombinedMargin",
    "CosFace",
    "CurricularFace",
    "MarginHead",
    "adaface_target",
    "arcface_target",
    "check_labels",
    "combined_target",
    "cosface_target",
    "curricular_negatives",
    "margin_softmax_loss",
    "replace_targets",
    "sample_classes",
]
