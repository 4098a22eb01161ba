"""Relational distillation: relative distances and angles between images."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range
from ekd_tf.keras_compat import register
from ekd_tf.losses.base import DistillationLoss
from ekd_tf.losses.base import TermsAndMonitor
from ekd_tf.ops.blocks import sum_over_rows
from ekd_tf.ops.numerics import pairwise_squared_distances
from ekd_tf.ops.numerics import safe_sqrt


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

    def __init__(
        self,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        delta: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.distance_weight = check_range("distance_weight", distance_weight, 0)
        self.angle_weight = check_range("angle_weight", angle_weight, 0)
        self.delta = check_positive("delta", delta)
        if not (distance_weight or angle_weight):
            raise ValueError("`distance_weight` and `angle_weight` must not both be 0.")

    def compute(self, student: tf.Tensor, teacher: tf.Tensor) -> TermsAndMonitor:
        terms = {}
        if self.distance_weight:
            difference = relative_distances(student) - relative_distances(teacher)
            distance = tf.reduce_mean(huber(difference, self.delta))
            terms[f"{self.name}/distance"] = self.distance_weight * distance
        if self.angle_weight:
            of_student = pairwise_squared_distances(student)
            of_teacher = pairwise_squared_distances(teacher)

            def of_vertices(vertices, squares):
                cosines = angle_cosines(squares, vertices)
                difference = cosines - angle_cosines(of_teacher, vertices)
                return tf.reduce_sum(huber(difference, self.delta), axis=[1, 2])

            batch = tf.cast(tf.shape(student)[0], tf.float32)
            total = sum_over_rows(of_vertices, of_student)
            terms[f"{self.name}/angle"] = self.angle_weight * (total / batch**3)
        return terms, {}
