"""ICD-Face: the student's positive pairs as alike as the teacher's."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from ekd_tf.checks import check_range
from ekd_tf.keras_compat import register
from ekd_tf.losses.base import MemoryLoss
from ekd_tf.losses.base import TermsAndMonitor
from ekd_tf.mining.miner import NO_ROW
from ekd_tf.ops.numerics import l2_normalize

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
class ICDFaceLoss(MemoryLoss):
    r"""Compares the distributions of two models' cosines of positive pairs.

    The term `icd_face` is $\mathrm{KL}(h^t \| h^s)$ of `soft_histogram` of the pairs of
    each image with other images of its identity, in the batch and in a bank of earlier
    ones. The paper has it beside a consistency of features: give `cosine` too. To
    watch: `icd_face/pairs`, their number.

    Args:
        student_dim, teacher_dim, memory: As in `MemoryLoss`.
        bins: Int >= 2. It and the size of the bank are ours; the paper's text was not
            at hand.

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
        super().__init__(memory, student_dim, teacher_dim, **kwargs)
        self.bins = int(check_range("bins", bins, 2))
        self._add_memory()

    def compute(
        self,
        student: tf.Tensor,
        teacher: tf.Tensor,
        labels: tf.Tensor,
        image_ids: tf.Tensor | None,
        training: bool,
    ) -> TermsAndMonitor:
        units = l2_normalize(student), l2_normalize(teacher)
        images = tf.range(tf.shape(labels)[0]) if image_ids is None else image_ids
        of_student, of_teacher = units
        known, others = labels, images
        if self.memory:
            bank = self._remembered(student, teacher, image_ids)
            of_student = tf.concat([of_student, bank.student], axis=0)
            of_teacher = tf.concat([of_teacher, bank.teacher], axis=0)
            known = tf.concat([labels, bank.labels], axis=0)
            none = tf.fill(tf.shape(bank.labels), NO_ROW)
            others = tf.concat([images, none], axis=0)
        positive = labels[:, None] == known[None, :]
        positive &= images[:, None] != others[None, :]
        of_student, of_teacher = (
            soft_histogram(tf.matmul(*both, transpose_b=True), positive, self.bins)
            for both in zip(units, (of_student, of_teacher))
        )
        apart = tf.math.log(of_teacher + _LEAST) - tf.math.log(of_student + _LEAST)
        value = tf.reduce_sum(of_teacher * apart)
        if training and self.memory:
            finite = tf.math.is_finite(sum(tf.reduce_sum(rows) for rows in units))
            self._remember(*units, labels, image_ids, finite)
        pairs = tf.math.count_nonzero(positive, dtype=tf.float32)
        return {self.name: value}, {f"{self.name}/pairs": pairs}
