"""Losses over all triples of a batch: RKD, and triplets with the teacher's margins."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range
from ekd_tf.checks import check_weights
from ekd_tf.keras_compat import register
from ekd_tf.losses.base import DistillationLoss
from ekd_tf.losses.base import TermsAndMonitor
from ekd_tf.ops.blocks import sum_over_rows
from ekd_tf.ops.numerics import l2_normalize
from ekd_tf.ops.numerics import safe_sqrt
from ekd_tf.ops.numerics import similarity_matrix

# Squared distances below this part of the rows' squared lengths are rounding.
_COINCIDING = 1e-5


def pairwise_squared_distances(embeddings: tf.Tensor) -> tf.Tensor:
    """Returns the squared Euclidean distances of float32 rows, `(batch, batch)`.

    Rows closer than 0.45 % of their distance from the batch's mean coincide within
    rounding: they have 0, and no gradient.
    """
    embeddings = embeddings - tf.reduce_mean(embeddings, axis=0)
    products = similarity_matrix(embeddings)
    lengths = tf.linalg.diag_part(products)
    lengths = lengths[:, None] + lengths[None, :]
    squares = lengths - 2.0 * products
    return tf.where(squares > _COINCIDING * lengths, squares, 0.0)


def huber(difference: tf.Tensor, delta: float) -> tf.Tensor:
    """Returns x^2 / 2 up to `delta` and, beyond it, its tangent."""
    size = tf.abs(difference)
    inner = tf.minimum(size, delta)
    return inner * (size - 0.5 * inner)


def relative_distances(embeddings: tf.Tensor) -> tf.Tensor:
    """Returns all distances, divided by the mean of those that are not 0."""
    distances = safe_sqrt(pairwise_squared_distances(embeddings))
    apart = tf.cast(tf.math.count_nonzero(distances), tf.float32)
    return tf.math.divide_no_nan(distances * apart, tf.reduce_sum(distances))


def angle_cosines(squares: tf.Tensor, vertices: tf.Tensor) -> tf.Tensor:
    r"""Returns the cosines of the angles at some vertices between all pairs of rows.

    By the law of cosines, from distances alone:
    $$ \cos\angle_{ijk} = \frac{d_{ij}^2 + d_{jk}^2 - d_{ik}^2}{2 d_{ij} d_{jk}} $$

    with j the row numbers `vertices`, int32 `(block,)`: float32 `(block, batch, batch)`
    of squared distances `(batch, batch)`, entry `[j, i, k]`. With a side of length 0
    it is 0, with a zero gradient.
    """
    sides = tf.gather(squares, vertices)
    apart = sides > 0
    inverse = tf.where(apart, tf.math.rsqrt(tf.where(apart, sides, 1.0)), 0.0)
    doubled = sides[:, :, None] + sides[:, None, :] - squares[None]
    return 0.5 * doubled * inverse[:, :, None] * inverse[:, None, :]


@register
class RKDLoss(DistillationLoss):
    r"""Compares distances between images, and the angles that all triples form.

    $$ L = \frac{w_d}{B^2} \sum_{i,j} h_\delta\Big(
        \frac{\lVert s_i - s_j \rVert}{\mu_s} -
        \frac{\lVert t_i - t_j \rVert}{\mu_t} \Big) +
        \frac{w_a}{B^3} \sum_{i,j,k} h_\delta(\cos\angle s_i s_j s_k -
        \cos\angle t_i t_j t_k) $$

    with $h_\delta$ the Huber function, quadratic up to `delta`, of raw embeddings, and
    $\mu$ the mean of a model's distances that are not 0. Visits the triples in blocks
    of vertices, so memory grows with batch^2. The terms are `rkd/distance` and
    `rkd/angle`; a weight of 0 leaves one out.

    Reference:
        Park et al., 2019, arXiv:1904.05068, with its weights 25 and 50, over all pairs
        and triples, a row with itself included, as the authors' code. There, and in
        TFace `recognition/tasks/ekd/distillation/rkd.py`, an angle is normalised edge
        by edge: coinciding rows give gradients of 4e11.
    """

    default_name = "rkd"
    usual_share = 0.3

    def __init__(
        self,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        delta: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.distance_weight, self.angle_weight = check_weights(
            distance_weight=distance_weight, angle_weight=angle_weight
        )
        self.delta = check_positive("delta", delta)

    def compute(self, student: tf.Tensor, teacher: tf.Tensor) -> TermsAndMonitor:
        terms = {}
        if self.distance_weight:
            difference = relative_distances(student) - relative_distances(teacher)
            distance = tf.reduce_mean(huber(difference, self.delta))
            terms[f"{self.name}/distance"] = self.distance_weight * distance
        if self.angle_weight:
            student_squares = pairwise_squared_distances(student)
            teacher_squares = pairwise_squared_distances(teacher)

            def angle_losses(vertices, squares):
                cosines = angle_cosines(squares, vertices)
                difference = cosines - angle_cosines(teacher_squares, vertices)
                return tf.reduce_sum(huber(difference, self.delta), axis=[1, 2])

            batch = tf.cast(tf.shape(student)[0], tf.float32)
            total = sum_over_rows(angle_losses, student_squares)
            terms[f"{self.name}/angle"] = self.angle_weight * (total / batch**3)
        return terms, {}


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

        def anchor_losses(anchors, student):
            first, second = (tf.gather(mask, anchors) for mask in (positive, negative))
            student, wanted = (tf.gather(x, anchors) for x in (student, teacher))
            gap = wanted[:, None, :] - wanted[:, :, None]
            margin = self.min_margin + slope * tf.maximum(gap, 0.0)
            violation = student[:, :, None] - student[:, None, :] + margin
            valid = first[:, :, None] & second[:, None, :]
            violation = tf.where(valid, tf.maximum(violation, 0.0), 0.0)
            return tf.reduce_sum(violation, axis=[1, 2])

        counts = [
            tf.math.count_nonzero(mask, axis=1, dtype=tf.float32)
            for mask in (positive, negative)
        ]
        count = tf.reduce_sum(counts[0] * counts[1])
        total = sum_over_rows(anchor_losses, student)
        return {self.name: tf.math.divide_no_nan(total, count)}, {}
