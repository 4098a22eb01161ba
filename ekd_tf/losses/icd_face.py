"""ICD-Face: the student's positive pairs as alike as the teacher's."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from ekd_tf.checks import check_range
from ekd_tf.keras_compat import register
from ekd_tf.losses.base import DistillationLoss
from ekd_tf.losses.base import TermsAndMonitor
from ekd_tf.ops.numerics import l2_normalize

# Label of a row of the bank that holds no image.
_NO_ROW = -1
_LEAST = 1e-6


def soft_histogram(cosines: tf.Tensor, counted: tf.Tensor, bins: int) -> tf.Tensor:
    r"""Returns the distribution of cosines, split over the two bins each lies between.

    $$ h_r = \frac{1}{n} \sum_{c} \max\big(0, 1 - |c - t_r| / \Delta\big) $$

    with t_r the `bins` centres from -1 to 1, Delta apart, and n the number of cosines
    that are counted (bool, of the shape of `cosines`); zero without any.

    Reference:
        Ustinova and Lempitsky, 2016, arXiv:1611.00822, equation 2.
    """
    place = (tf.clip_by_value(cosines, -1.0, 1.0) + 1.0) * ((bins - 1) / 2)
    low = tf.minimum(tf.floor(place), bins - 2.0)
    upper = place - low
    weights = tf.cast(counted, tf.float32)
    parts = tf.stack([weights * (1.0 - upper), weights * upper])
    places = tf.cast(tf.stack([low, low + 1.0]), tf.int32)
    sums = tf.math.unsorted_segment_sum(
        tf.reshape(parts, [-1]), tf.reshape(places, [-1]), bins
    )
    return tf.math.divide_no_nan(sums, tf.reduce_sum(weights))


@register
class ICDFaceLoss(DistillationLoss):
    r"""Compares the distributions of two models' cosines of positive pairs.

    The term `icd_face` is $\mathrm{KL}(h^t \| h^s)$ of `soft_histogram` of the pairs of
    each image with the images of its identity in the batch and in a bank of earlier
    ones. The paper has it beside a consistency of features: give `cosine` too. To
    watch: `icd_face/pairs`, their number.

    Args:
        student_dim, teacher_dim: Ints > 0, sizes of the embeddings, for the bank.
        memory: Int >= 0, rows of the bank.
        bins: Int >= 2. Both are ours; the paper's text was not at hand.

    State:
        bank_student, bank_teacher: float32 `(memory, dim)` of unit length; bank_labels:
        int32 `(memory,)`. The newest rows are first.

    Reference:
        Yu et al., ICCV 2023.
    """

    default_name = "icd_face"
    uses_labels = True

    def __init__(
        self,
        student_dim: int | None = None,
        teacher_dim: int | None = None,
        memory: int = 2048,
        bins: int = 41,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.memory = int(check_range("memory", memory, 0))
        self.bins = int(check_range("bins", bins, 2))
        self.student_dim, self.teacher_dim = student_dim, teacher_dim
        if not memory:
            return
        if None in (student_dim, teacher_dim):
            raise ValueError(
                "`memory` needs `student_dim` and `teacher_dim`; memory=0 does "
                f"without. Received: {memory=}, {student_dim=}, {teacher_dim=}"
            )
        rows = (self.memory,)
        self.bank_student = self.add_state("bank_student", (*rows, student_dim))
        self.bank_teacher = self.add_state("bank_teacher", (*rows, teacher_dim))
        self.bank_labels = self.add_state("bank_labels", rows, _NO_ROW, "int32")

    def compute(
        self,
        student: tf.Tensor,
        teacher: tf.Tensor,
        labels: tf.Tensor,
        training: bool,
    ) -> TermsAndMonitor:
        galleries = [l2_normalize(student), l2_normalize(teacher)]
        units, known = tuple(galleries), labels
        if self.memory:
            banks = self.bank_student, self.bank_teacher, self.bank_labels
            *galleries, known = (
                tf.concat([newest, tf.convert_to_tensor(bank)], axis=0)
                for newest, bank in zip((*units, labels), banks)
            )
        rows, columns = tf.range(tf.shape(labels)[0]), tf.range(tf.shape(known)[0])
        positive = labels[:, None] == known[None, :]
        positive &= rows[:, None] != columns[None, :]
        of_student, of_teacher = (
            soft_histogram(tf.matmul(*both, transpose_b=True), positive, self.bins)
            for both in zip(units, galleries)
        )
        apart = tf.math.log(of_teacher + _LEAST) - tf.math.log(of_student + _LEAST)
        value = tf.reduce_sum(of_teacher * apart)
        if training and self.memory:
            for bank, gallery in zip(banks, (*galleries, known)):
                newest = tf.stop_gradient(gallery[: self.memory])
                bank.assign(tf.ensure_shape(newest, bank.shape))
        pairs = tf.math.count_nonzero(positive, dtype=tf.float32)
        return {self.name: value}, {f"{self.name}/pairs": pairs}
