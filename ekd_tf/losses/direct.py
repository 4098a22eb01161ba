"""Losses that compare two embeddings of one image, and what brings them together."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from ekd_tf.checks import check_positive
from ekd_tf.keras_compat import register
from ekd_tf.losses.base import DistillationLoss
from ekd_tf.losses.base import TermsAndMonitor
from ekd_tf.ops.numerics import l2_normalize


class ProjectedLoss(DistillationLoss):
    """Base of the losses that need both models' embeddings in one space.

    Where the two sizes differ the loss owns a linear projection of the student, which
    is trained and saved with the run and is no part of the exported student.

    Args:
        student_dim: Int > 0, size of the student's embeddings; None: the teacher's.
        teacher_dim: Int > 0, size of the teacher's embeddings; None: any, and then the
            student's must be the same.

    State:
        projection/kernel: float32 `(student_dim, teacher_dim)`, trainable, Glorot
        uniform at first; only where the sizes differ.
    """

    compares_pairs = False

    def __init__(
        self,
        student_dim: int | None = None,
        teacher_dim: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if teacher_dim is None and student_dim is not None:
            raise ValueError(
                "`student_dim` needs `teacher_dim` beside it. "
                f"Received: student_dim={student_dim}, teacher_dim=None"
            )
        if teacher_dim is not None:
            student_dim = teacher_dim if student_dim is None else student_dim
            check_positive("student_dim", student_dim)
            check_positive("teacher_dim", teacher_dim)
        self.student_dim = student_dim
        self.teacher_dim = teacher_dim
        self.projection = None
        if student_dim != teacher_dim:
            self.projection = keras.layers.Dense(
                teacher_dim, use_bias=False, dtype="float32", name="projection"
            )
            self.projection.build((None, student_dim))

    def project(self, student: tf.Tensor, teacher: tf.Tensor) -> tf.Tensor:
        """Returns the student's embeddings in the teacher's space, float32."""
        received = student.shape[1], teacher.shape[1]
        expected = self.student_dim, self.teacher_dim
        if expected == (None, None):
            expected = received[1], received[1]
        if received == expected:
            return student if self.projection is None else self.projection(student)
        raise ValueError(
            f"{type(self).__name__} compares embeddings in one space. Make it with "
            f"student_dim={received[0]}, teacher_dim={received[1]} to own a "
            f"projection. Received: student_dim={self.student_dim}, "
            f"teacher_dim={self.teacher_dim}"
        )


def cosine_distance(student: tf.Tensor, teacher: tf.Tensor) -> tf.Tensor:
    """Averages one minus the cosine of each row of one tensor with that of another.

    A zero row counts as cosine 0, with a finite gradient.
    """
    cosines = tf.reduce_sum(l2_normalize(student) * l2_normalize(teacher), axis=1)
    return tf.reduce_mean(1.0 - cosines)


@register
class CosineLoss(ProjectedLoss):
    r"""Averages one minus the cosine of the two embeddings, the term `cosine`.

    $$ L = \frac{1}{B} \sum_i \big(1 - \hat s_i \cdot \hat t_i\big) $$

    Reference:
        TFace `recognition/tasks/ekd/distillation/cosine_distance.py`, equal to
        rounding. Weights of 7 to 128 are in use beside a margin loss of scale 64.
    """

    default_name = "cosine"
    usual_share = 5.0

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
        layer. TFace `recognition/tasks/ekd/distillation/fitnet.py`, equal to rounding.
    """

    default_name = "fitnet"
    usual_share = 3.0

    def compute(self, student: tf.Tensor, teacher: tf.Tensor) -> TermsAndMonitor:
        projected = self.project(student, teacher)
        square = tf.math.squared_difference(projected, teacher)
        return {self.name: tf.reduce_mean(square)}, {}
