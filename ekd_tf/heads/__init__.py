"""Margin heads: embeddings and labels to logits, logits to the loss."""

from ekd_tf.heads.base import MarginHead as MarginHead
from ekd_tf.heads.base import margin_softmax_loss as margin_softmax_loss
from ekd_tf.heads.base import num_sampled as num_sampled
from ekd_tf.heads.base import replace_targets as replace_targets
from ekd_tf.heads.base import sample_classes as sample_classes
from ekd_tf.heads.margins import AdaFace as AdaFace
from ekd_tf.heads.margins import ArcFace as ArcFace
from ekd_tf.heads.margins import CombinedMargin as CombinedMargin
from ekd_tf.heads.margins import CosFace as CosFace
from ekd_tf.heads.margins import CurricularFace as CurricularFace
from ekd_tf.heads.margins import arcface_target as arcface_target
from ekd_tf.heads.margins import default_scale as default_scale

# What `--head` calls them.
HEADS = {
    "arcface": ArcFace,
    "cosface": CosFace,
    "curricularface": CurricularFace,
    "adaface": AdaFace,
    "combined": CombinedMargin,
}
