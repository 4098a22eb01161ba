"""FitNet: the student regresses the teacher's embedding."""

from __future__ import annotations

import tensorflow as tf

from ekd_tf.keras_compat import register
from ekd_tf.losses.projection import ProjectedLoss


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

    def __init__(
        self,
        student_dim: int | None = None,
        teacher_dim: int | None = None,
        name: str = "fitnet",
        **kwargs,
    ):
        super().__init__(student_dim, teacher_dim, name=name, **kwargs)

    def compute(self, student, teacher, labels, image_ids, training):
        projected = self.project(student, teacher)
        square = tf.math.squared_difference(projected, teacher)
        return {self.name: tf.reduce_mean(square)}, {}
