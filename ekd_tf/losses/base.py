"""What all distillation losses do: check, cast to float32, freeze the teacher."""

from __future__ import annotations

import inspect

import keras
import tensorflow as tf

from ekd_tf import keras_compat
from ekd_tf.checks import check_rank
from ekd_tf.checks import check_same_batch
from ekd_tf.ops.numerics import as_float32
from ekd_tf.ops.numerics import as_int32


class DistillationLoss(keras.layers.Layer):
    """Base of the losses that compare a student's embeddings with a teacher's.

    A loss is a layer so that whatever state it holds (thresholds, projections,
    centres) is tracked and saved with the run. Subclasses write `compute` and keep
    each argument of their constructor as an attribute of the same name.

    Called as `loss(student, teacher, labels)` it returns a dict of named float32
    scalars whose sum is the loss, under every precision policy.
    """

    # Whether a call without labels is refused.
    uses_labels = False

    def __init__(self, name: str | None = None, **kwargs):
        kwargs.pop("dtype", None)
        super().__init__(name=name, dtype="float32", **kwargs)
        # State is made in the constructor of a subclass: the optimizer is given the
        # trainable part before the first batch.
        self.built = True

    add_state = keras_compat.add_state

    def compute(self, student, teacher, labels, image_ids, training):
        """Returns `(terms, monitor)`, two dicts of names to float32 scalars.

        Args:
            student: Float32 tensor `(batch, student_dim)`, not normalised.
            teacher: Float32 tensor `(batch, teacher_dim)`, not normalised, without
                gradient.
            labels: Int32 tensor `(batch,)`, or None.
            image_ids: Int32 tensor `(batch,)`, or None.
            training: Bool: whether state may change.
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
    ):
        """Returns the loss terms of a batch.

        Args:
            student: Float tensor `(batch, student_dim)`, raw embeddings.
            teacher: Float tensor `(batch, teacher_dim)`, same images, same order.
                Receives no gradient.
            labels: Integer tensor `(batch,)`.
            image_ids: Integer tensor `(batch,)` naming the source image of each row,
                or None when all differ.
            training: Whether the loss may update its state.
            with_monitor: Whether to return a second dict of scalars worth watching
                that are not part of the loss.

        Returns:
            Dict of names to float32 scalars whose sum is the loss, or a pair of
            dicts when `with_monitor`.
        """
        student = as_float32(student)
        teacher = tf.stop_gradient(as_float32(teacher))
        check_rank("student", student, 2)
        check_rank("teacher", teacher, 2)
        batch = {"student": student, "teacher": teacher}
        if labels is None and self.uses_labels:
            raise ValueError(f"{type(self).__name__} needs `labels`.")
        if labels is not None:
            batch["labels"] = labels = as_int32(labels)
            check_rank("labels", labels, 1)
        if image_ids is not None:
            batch["image_ids"] = image_ids = as_int32(image_ids)
            check_rank("image_ids", image_ids, 1)
        check_same_batch(**batch)
        terms, monitor = self.compute(student, teacher, labels, image_ids, training)
        return (terms, monitor) if with_monitor else terms

    def get_config(self) -> dict:
        """Returns the constructor's arguments, from the attributes of their names."""
        kept = vars(self)
        arguments = inspect.signature(type(self)).parameters
        return {**super().get_config(), **{n: kept[n] for n in arguments if n in kept}}
