"""The embeddings of the batches before, of both models, to pair a batch with."""

import tensorflow as tf

from ekd_tf.mining.critical import Memory


class EmbeddingMemory:
    """Keeps the newest rows of student, teacher, labels and image ids.

    Owned by a loss, whose variables it makes: they are saved with the run.

    Args:
        loss: `DistillationLoss`.
        rows: Int > 0: how many to keep.
        student_dim: Int, size of the student's embeddings.
        teacher_dim: Int, size of the teacher's.
    """

    def __init__(self, loss, rows, student_dim, teacher_dim):
        def empty(shape, dtype=None):
            return -tf.ones(shape, dtype or tf.float32)

        self.student = loss.add_state("memory_student", (rows, student_dim))
        self.teacher = loss.add_state("memory_teacher", (rows, teacher_dim))
        # Float32 holds integers up to 2^24. Image ids beyond are rounded, and then a
        # few more rows than need be are taken for one of the batch's images.
        self.labels = loss.add_state("memory_labels", (rows,), empty)
        self.image_ids = loss.add_state("memory_image_ids", (rows,), empty)

    def beside(self, image_ids=None):
        """Returns the `Memory` to mine a batch with.

        Its label is -1 where the memory is not yet filled, and where an image of the
        batch has been seen before: of the two embeddings the old one is left out.

        Args:
            image_ids: Int32 tensor `(batch,)` of the batch, or None.
        """
        labels = tf.cast(self.labels, tf.int32)
        if image_ids is not None:
            old_ids = tf.convert_to_tensor(self.image_ids)
            new_ids = tf.cast(image_ids, tf.float32)
            again = tf.reduce_any(old_ids[:, None] == new_ids[None, :], axis=1)
            labels = tf.where(again, -1, labels)
        return Memory(
            student=tf.convert_to_tensor(self.student),
            teacher=tf.convert_to_tensor(self.teacher),
            labels=labels,
            image_ids=tf.cast(self.image_ids, tf.int32),
        )

    def push(self, student, teacher, labels, image_ids, counts):
        """Takes a batch in and drops the oldest rows, if the bool tensor `counts`.

        Args:
            student: Float32 tensor `(batch, student_dim)`, of unit length.
            teacher: Float32 tensor `(batch, teacher_dim)`, of unit length.
            labels: Int32 tensor `(batch,)`.
            image_ids: Int32 tensor `(batch,)`, or None.
            counts: Bool scalar tensor.
        """
        if image_ids is None:
            image_ids = -tf.ones_like(labels)
        for variable, newest in (
            (self.student, student),
            (self.teacher, teacher),
            (self.labels, labels),
            (self.image_ids, image_ids),
        ):
            newest = tf.cast(tf.stop_gradient(newest), tf.float32)
            rows = tf.concat([newest, tf.convert_to_tensor(variable)], axis=0)
            first = tf.where(counts, 0, tf.shape(newest)[0])
            kept = rows[first : first + variable.shape[0]]
            variable.assign(tf.ensure_shape(kept, variable.shape))
