"""Triplet distillation: a triplet loss whose margins the teacher sets."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range
from ekd_tf.keras_compat import register
from ekd_tf.losses.base import DistillationLoss
from ekd_tf.losses.base import TermsAndMonitor
from ekd_tf.ops.blocks import sum_over_rows
from ekd_tf.ops.numerics import l2_normalize
from ekd_tf.ops.numerics import similarity_matrix


@register
class TripletDistillationLoss(DistillationLoss):
    r"""Averages the triplet loss over all triplets, each with the teacher's margin.

    $$ L = \frac{1}{N} \sum_{a,p,n} \max\big(0, D_s(a,p) - D_s(a,n) + m(a,p,n)\big),
        \quad m = m_{min} + (m_{max} - m_{min}) \frac{d}{d_{max}},
        \quad d = \max\big(0, D_t(a,n) - D_t(a,p)\big) $$

    with D the squared distance of unit rows and $d_{max}$ the largest d of the batch.
    Visits the triplets in blocks of anchors, so memory grows with batch^2.

    Another view of the anchor's own image, by `image_ids`, is no positive. The term is
    `triplet_distillation`, 0 with a zero gradient without triplets.

    Reference:
        Feng et al., 2020, arXiv:1905.04457. The paper mines triplets over the data
        set; here all of the batch count, satisfied ones as 0.
    """

    default_name = "triplet_distillation"
    uses_labels = True

    def __init__(
        self,
        min_margin: float = 0.2,
        max_margin: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.max_margin = check_positive("max_margin", max_margin)
        self.min_margin = check_range("min_margin", min_margin, 0, max_margin)

    def compute(
        self,
        student: tf.Tensor,
        teacher: tf.Tensor,
        labels: tf.Tensor,
        image_ids: tf.Tensor | None,
    ) -> TermsAndMonitor:
        if image_ids is None:
            image_ids = tf.range(tf.shape(labels)[0])
        negative = labels[:, None] != labels[None, :]
        positive = ~negative & (image_ids[:, None] != image_ids[None, :])
        student, teacher = (
            2.0 - 2.0 * similarity_matrix(l2_normalize(embeddings))
            for embeddings in (student, teacher)
        )
        # The largest d: each anchor's farthest negative against its nearest positive.
        farthest = tf.reduce_max(tf.where(negative, teacher, -4.0), axis=1)
        nearest = tf.reduce_min(tf.where(positive, teacher, 4.0), axis=1)
        largest = tf.maximum(tf.reduce_max(farthest - nearest), 0.0)
        slope = tf.math.divide_no_nan(self.max_margin - self.min_margin, largest)

        def of_anchors(anchors, student):
            first, second = (tf.gather(mask, anchors) for mask in (positive, negative))
            of_student, of_teacher = (tf.gather(x, anchors) for x in (student, teacher))
            gap = of_teacher[:, None, :] - of_teacher[:, :, None]
            margin = self.min_margin + slope * tf.maximum(gap, 0.0)
            violation = of_student[:, :, None] - of_student[:, None, :] + margin
            valid = first[:, :, None] & second[:, None, :]
            violation = tf.where(valid, tf.maximum(violation, 0.0), 0.0)
            return tf.reduce_sum(violation, axis=[1, 2])

        counts = [
            tf.math.count_nonzero(mask, axis=1, dtype=tf.float32)
            for mask in (positive, negative)
        ]
        count = tf.reduce_sum(counts[0] * counts[1])
        total = sum_over_rows(of_anchors, student)
        return {self.name: tf.math.divide_no_nan(total, count)}, {}
