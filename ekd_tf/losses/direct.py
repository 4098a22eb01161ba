"""Losses that compare two embeddings of one image: their directions, or all of them."""

from __future__ import annotations

import tensorflow as tf

from ekd_tf.keras_compat import register
from ekd_tf.losses.base import TermsAndMonitor
from ekd_tf.losses.projected import ProjectedLoss
from ekd_tf.ops.numerics import l2_normalize


def cosine_distance(student: tf.Tensor, teacher: tf.Tensor) -> tf.Tensor:
    r"""Averages one minus the cosine between two models' embeddings of an image.

    $$ L = \frac{1}{B} \sum_i \big(1 - \hat s_i \cdot \hat t_i\big) $$

    A float32 scalar in [0, 2] of two float `(batch, dim)`; a zero row counts as cosine
    0, with a finite gradient.

    Reference:
        TFace `recognition/tasks/ekd/distillation/cosine_distance.py`, equal to
        rounding. Weights of 7 to 128 are in use beside a margin loss of scale 64.
    """
    cosines = tf.reduce_sum(l2_normalize(student) * l2_normalize(teacher), axis=1)
    return tf.reduce_mean(1.0 - cosines)


@register
class CosineLoss(ProjectedLoss):
    """Compares directions: the term `cosine` is `cosine_distance`."""

    default_name = "cosine"

    def compute(self, student: tf.Tensor, teacher: tf.Tensor) -> TermsAndMonitor:
        return {self.name: cosine_distance(self.project(student, teacher), teacher)}, {}


@register
class FitNetLoss(ProjectedLoss):
    r"""Averages the squared difference of the raw embeddings, the term `fitnet`.

    $$ L = \frac{1}{B D} \sum_i \lVert P s_i - t_i \rVert^2 $$

    with P the projection, the identity where the sizes agree. Lengths count, not only
    directions: the term is as large as the teacher's embeddings are long.

    Reference:
        Romero et al., 2015, arXiv:1412.6550, on the embedding instead of a hidden
        layer, as TFace `recognition/tasks/ekd/distillation/fitnet.py`, which
        it equals to rounding.
    """

    default_name = "fitnet"

    def compute(self, student: tf.Tensor, teacher: tf.Tensor) -> TermsAndMonitor:
        projected = self.project(student, teacher)
        square = tf.math.squared_difference(projected, teacher)
        return {self.name: tf.reduce_mean(square)}, {}
