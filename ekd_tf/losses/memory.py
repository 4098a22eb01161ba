"""What losses share that pair a batch with the images before it."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from ekd_tf.checks import check_range
from ekd_tf.losses.base import DistillationLoss
from ekd_tf.mining.miner import NO_ROW
from ekd_tf.mining.miner import Memory


class MemoryLoss(DistillationLoss):
    """Base of the losses with a memory of rows as both models embedded them.

    Args:
        memory: Int >= 0, its rows; 0: none.
        student_dim, teacher_dim: Ints > 0, sizes of the embeddings, which it needs.

    State:
        `memory_student` and `memory_teacher`, float32 `(memory, dim)` of unit length;
        `memory_labels` and `memory_image_ids`, int64 `(memory,)`. The newest are first.
    """

    def __init__(
        self,
        memory: int,
        student_dim: int | None,
        teacher_dim: int | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.memory = int(check_range("memory", memory, 0))
        if memory and None in (student_dim, teacher_dim):
            raise ValueError(
                "`memory` needs `student_dim` and `teacher_dim`; memory=0 does "
                f"without. Received: {memory=}, {student_dim=}, {teacher_dim=}"
            )
        self.student_dim, self.teacher_dim = student_dim, teacher_dim

    def _add_memory(self):
        """Makes the state, behind what a subclass has made of its own."""
        if not self.memory:
            return
        rows, empty = (self.memory,), (NO_ROW, "int64")
        add = self.add_state
        self.memory_student = add("memory_student", (*rows, self.student_dim))
        self.memory_teacher = add("memory_teacher", (*rows, self.teacher_dim))
        self.memory_labels = add("memory_labels", rows, *empty)
        self.memory_image_ids = add("memory_image_ids", rows, *empty)

    def _remembered(self, student, teacher, image_ids):
        """Returns the `Memory`, without the images that the batch shows again."""
        received = student.shape[1], teacher.shape[1]
        if received != (self.student_dim, self.teacher_dim):
            raise ValueError(
                "`student_dim` and `teacher_dim` must be the sizes of the embeddings, "
                f"{received[0]} and {received[1]}. Received: student_dim="
                f"{self.student_dim}, teacher_dim={self.teacher_dim}"
            )
        labels = tf.convert_to_tensor(self.memory_labels)
        old_ids = tf.convert_to_tensor(self.memory_image_ids)
        if image_ids is not None:
            new_ids = tf.cast(image_ids, old_ids.dtype)
            again = tf.reduce_any(old_ids[:, None] == new_ids[None, :], axis=1)
            labels = tf.where(again, tf.cast(NO_ROW, labels.dtype), labels)
        return Memory(
            student=tf.convert_to_tensor(self.memory_student),
            teacher=tf.convert_to_tensor(self.memory_teacher),
            labels=tf.cast(labels, tf.int32),
        )

    def _remember(self, student, teacher, labels, image_ids, finite):
        """Takes unit rows in and drops the oldest, unless one is not `finite`."""
        if image_ids is None:
            image_ids = tf.fill(tf.shape(labels), NO_ROW)
        for variable, newest in (
            (self.memory_student, student),
            (self.memory_teacher, teacher),
            (self.memory_labels, labels),
            (self.memory_image_ids, image_ids),
        ):
            old = tf.convert_to_tensor(variable)
            newest = tf.cast(tf.stop_gradient(newest), old.dtype)
            both = tf.concat([newest, old], axis=0)
            first = tf.where(finite, 0, tf.shape(newest)[0])
            kept = both[first : first + self.memory]
            variable.assign(tf.ensure_shape(kept, variable.shape))
