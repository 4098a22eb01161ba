"""What losses do that compare both models' embeddings in one space."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from ekd_tf.checks import check_positive
from ekd_tf.losses.base import DistillationLoss


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
