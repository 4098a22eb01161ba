"""Cosine distillation: the student's direction follows the teacher's."""

from __future__ import annotations

import tensorflow as tf

from ekd_tf.keras_compat import register
from ekd_tf.losses.projection import ProjectedLoss
from ekd_tf.ops.numerics import l2_normalize


def cosine_distance(student: tf.Tensor, teacher: tf.Tensor) -> tf.Tensor:
    r"""Averages one minus the cosine between two models' embeddings of an image.

    $$ L = \frac{1}{B} \sum_i \big(1 - \hat s_i \cdot \hat t_i\big) $$

    Args:
        student: Float tensor `(batch, dim)`; normalised here. A zero row counts as
            cosine 0, with a finite gradient.
        teacher: Float tensor `(batch, dim)`, same images, same order.

    Returns:
        Float32 scalar in [0, 2].

    Reference:
        TFace `recognition/tasks/ekd/distillation/cosine_distance.py`, equal to
        rounding. Weights of 7 to 128 are in use beside a margin loss of scale 64.
    """
    cosines = tf.reduce_sum(l2_normalize(student) * l2_normalize(teacher), axis=1)
    return tf.reduce_mean(1.0 - cosines)


@register
class CosineLoss(ProjectedLoss):
    """Compares directions: the term `cosine` is `cosine_distance`."""

    def __init__(
        self,
        student_dim: int | None = None,
        teacher_dim: int | None = None,
        name: str = "cosine",
        **kwargs,
    ):
        super().__init__(student_dim, teacher_dim, name=name, **kwargs)

    def compute(self, student, teacher, labels, image_ids, training):
        return {self.name: cosine_distance(self.project(student, teacher), teacher)}, {}
