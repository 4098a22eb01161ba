"""Margin heads: embeddings and labels to logits, logits to the loss."""

from ekd_tf.heads.adaface import AdaFace
from ekd_tf.heads.adaface import adaface_target
from ekd_tf.heads.base import MarginHead
from ekd_tf.heads.base import check_labels
from ekd_tf.heads.base import margin_softmax_loss
from ekd_tf.heads.base import num_sampled
from ekd_tf.heads.base import replace_targets
from ekd_tf.heads.base import sample_classes
from ekd_tf.heads.curricularface import CurricularFace
from ekd_tf.heads.curricularface import curricular_negatives
from ekd_tf.heads.fixed_margins import ArcFace
from ekd_tf.heads.fixed_margins import CombinedMargin
from ekd_tf.heads.fixed_margins import CosFace
from ekd_tf.heads.fixed_margins import arcface_target
from ekd_tf.heads.fixed_margins import combined_target
from ekd_tf.heads.fixed_margins import default_scale

# What `--head` calls them.
HEADS = {
    "arcface": ArcFace,
    "cosface": CosFace,
    "curricularface": CurricularFace,
    "adaface": AdaFace,
    "combined": CombinedMargin,
}

__all__ = [
    "HEADS",
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
    "curricular_negatives",
    "default_scale",
    "margin_softmax_loss",
    "num_sampled",
    "replace_targets",
    "sample_classes",
]
