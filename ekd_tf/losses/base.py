"""What all distillation losses do, and what those do that remember images."""

from __future__ import annotations

import inspect
from typing import Any

import keras
import tensorflow as tf

from ekd_tf import keras_compat
from ekd_tf.checks import check_rank
from ekd_tf.checks import check_same_batch
from ekd_tf.checks import check_whole
from ekd_tf.mining.miner import NO_ROW
from ekd_tf.mining.miner import ExtraRows
from ekd_tf.ops.numerics import as_float32
from ekd_tf.ops.numerics import as_int32

# Two dicts of names to float32 scalars: the terms of the loss, and what to watch.
TermsAndMonitor = tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]


class DistillationLoss(keras.layers.Layer):
    """Base of the losses that compare a student's embeddings with a teacher's.

    Called as `loss(student, teacher, labels)` it returns a dict of named float32
    scalars whose sum is the loss, under every precision policy. A loss is a layer so
    that its state (thresholds, projections, centres) is saved with the run.

    A subclass writes `compute`, keeps each argument of its constructor as an attribute
    of that name, and makes its state in the constructor: the optimizer is given the
    trainable part before the first batch.
    """

    # The layer's name, which terms carry, unless another is given.
    default_name: str | None = None
    # Whether it needs several images of an identity in a batch.
    compares_pairs = True
    # Of the margin loss's gradient, for `--distill` without a weight.
    usual_share = 1.0
    # Whether a call without labels is refused.
    uses_labels = False

    def __init__(self, name: str | None = None, **kwargs: Any) -> None:
        kwargs |= {"name": name or self.default_name, "dtype": "float32"}
        # Keras would cast labels too, to float32, which has no 2^24 + 1.
        super().__init__(**kwargs, autocast=False)
        self.built = True

    add_state = keras_compat.add_state

    def compute(self, *args: Any, **kwargs: Any) -> TermsAndMonitor:
        """Returns the terms of a batch and what to watch beside them.

        A subclass takes, by these names, `student` and `teacher`, float32 `(batch,
        dim)`, the teacher without gradient, and what it needs of `labels` and
        `image_ids`, int32 `(batch,)` or None, and `training`, a bool.
        """
        raise TypeError(f"{type(self).__name__} must define `compute`.")

    def call(
        self,
        student: tf.Tensor,
        teacher: tf.Tensor,
        labels: tf.Tensor | None = None,
        image_ids: tf.Tensor | None = None,
        training: bool = True,
        with_monitor: bool = False,
    ) -> dict[str, tf.Tensor] | TermsAndMonitor:
        """Returns the loss terms of a batch, NaN where a row of it is not finite.

        Args:
            student: Float tensor `(batch, student_dim)`, raw rows of all replicas.
            teacher: Float tensor `(batch, teacher_dim)`, same images, same order.
            labels: Integer tensor `(batch,)`, below 2^31.
            image_ids: Integer tensor `(batch,)`, below 2^31, naming the source image of
                each row, or None when all differ, those of the memory included.
            training: Whether the loss may update its state.
            with_monitor: Whether to return a second dict: scalars worth watching.
        """
        batch = {
            "student": as_float32(student),
            "teacher": tf.stop_gradient(as_float32(teacher)),
        }
        if labels is not None:
            batch["labels"] = as_int32(labels)
        elif self.uses_labels:
            raise ValueError(f"{type(self).__name__} needs `labels`.")
        if image_ids is not None:
            batch["image_ids"] = as_int32(image_ids)
        for name, tensor in batch.items():
            check_rank(name, tensor, 2 if name in ("student", "teacher") else 1)
        check_same_batch(**batch)
        if batch["student"].shape[0] == 0:
            raise ValueError("A batch must have rows. Received: none")
        given = {"labels": None, "image_ids": None, **batch, "training": training}
        takes = inspect.signature(self.compute).parameters.keys() & given.keys()
        terms, monitor = self.compute(**{name: given[name] for name in takes})
        rows = tf.concat([batch["student"], batch["teacher"]], axis=1)
        finite = tf.reduce_all(tf.math.is_finite(rows))
        # A loss may have left the row out: an update without it would go unseen.
        shown = tf.where(finite, 1.0, float("nan"))
        terms = {name: value * shown for name, value in terms.items()}
        return (terms, monitor) if with_monitor else terms

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from the attributes of their names."""
        kept = vars(self)
        arguments = inspect.signature(type(self)).parameters
        return {**super().get_config(), **{n: kept[n] for n in arguments if n in kept}}


class MemoryLoss(DistillationLoss):
    """Base of the losses that pair a batch with the images before it.

    Args:
        memory: Int >= 0, how many images to remember, without gradient.
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
        self.memory = check_whole("memory", memory, 0)
        if memory and None in (student_dim, teacher_dim):
            raise ValueError(
                "`memory` needs `student_dim` and `teacher_dim`; memory=0 does "
                f"without. Received: {memory=}, {student_dim=}, {teacher_dim=}"
            )
        for name, size in (("student_dim", student_dim), ("teacher_dim", teacher_dim)):
            if size is not None:
                check_whole(name, size, 1)
        self.student_dim, self.teacher_dim = student_dim, teacher_dim

    def _add_memory(self):
        """Makes the state, behind what a subclass has made of its own."""
        if self.memory:
            rows, empty = (self.memory,), (NO_ROW, "int64")
            add = self.add_state
            self.memory_student = add("memory_student", (*rows, self.student_dim))
            self.memory_teacher = add("memory_teacher", (*rows, self.teacher_dim))
            self.memory_labels = add("memory_labels", rows, *empty)
            self.memory_image_ids = add("memory_image_ids", rows, *empty)

    def _remembered(self, student, teacher, image_ids):
        """Returns the rows, without those of images that the batch shows again."""
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
        return ExtraRows(
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
            # XLA cannot compile a slice whose start depends on `finite`.
            moved = tf.concat([newest, old], axis=0)[: self.memory]
            moved = tf.ensure_shape(moved, variable.shape)
            variable.assign(tf.where(finite, moved, old))
