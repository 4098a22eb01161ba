"""Correlation congruence distillation."""

from __future__ import annotations

import math

import tensorflow as tf

from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range
from ekd_tf.keras_compat import register
from ekd_tf.losses.base import DistillationLoss
from ekd_tf.ops.numerics import l2_normalize
from ekd_tf.ops.numerics import similarity_matrix


def correlation_matrix(
    embeddings: tf.Tensor, gamma: float = 0.4, orders: int = 2
) -> tf.Tensor:
    r"""Returns the Gaussian kernel of all pairs as a polynomial of their cosines.

    $$ K = \sum_{p=0}^{P} e^{-2\gamma} \frac{(2\gamma)^p}{p!} S^p $$

    with S the cosines and powers entry by entry: the Taylor series of
    $e^{-\gamma \lVert \hat f_i - \hat f_j \rVert^2}$.

    Args:
        embeddings: Float tensor `(batch, dim)`; normalised here.
        gamma: Float > 0.
        orders: Int >= 1: the highest power P.

    Returns:
        Float32 tensor `(batch, batch)`.
    """
    cosines = similarity_matrix(l2_normalize(embeddings))
    kernel = tf.zeros_like(cosines)
    for p in reversed(range(orders + 1)):
        factor = math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p)
        kernel = kernel * cosines + factor
    return kernel


@register
class CCKDLoss(DistillationLoss):
    r"""Averages the squared difference of two `correlation_matrix`, the term `cckd`.

    $$ L = \frac{1}{B^2} \sum_{ij} (K^s_{ij} - K^t_{ij})^2 $$

    Reference:
        Peng et al., 2019, arXiv:1904.01802: gamma 0.4, order 2.
        TFace `recognition/tasks/ekd/distillation/cc.py` sums the powers 0 to P - 1
        only, so its P = 2 is `orders=1` here, which is (2 gamma e^{-2 gamma})^2 =
        0.1292 times SP and compares nothing SP does not.
    """

    def __init__(
        self, gamma: float = 0.4, orders: int = 2, name: str = "cckd", **kwargs
    ):
        super().__init__(name=name, **kwargs)
        check_positive("gamma", gamma)
        check_range("orders", orders, 1)
        self.gamma = float(gamma)
        self.orders = int(orders)

    def compute(self, student, teacher, labels, image_ids, training):
        kernels = [
            correlation_matrix(embeddings, self.gamma, self.orders)
            for embeddings in (student, teacher)
        ]
        return {self.name: tf.reduce_mean(tf.math.squared_difference(*kernels))}, {}
