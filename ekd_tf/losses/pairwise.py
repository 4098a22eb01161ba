"""Losses that compare two models' matrices of all cosines of a batch."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from ekd_tf.checks import check_choice
from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range
from ekd_tf.keras_compat import register
from ekd_tf.losses.base import DistillationLoss
from ekd_tf.losses.base import TermsAndMonitor
from ekd_tf.ops.numerics import l2_normalize
from ekd_tf.ops.numerics import similarity_matrix

GRAMS = ("cosine", "row_normalized")
_LEAST_KERNEL = 1e-6


def similarity_preserving(
    student: tf.Tensor, teacher: tf.Tensor, gram: str = "cosine"
) -> tf.Tensor:
    r"""Averages the squared difference of two models' similarity matrices.

    $$ L = \frac{1}{B^2} \lVert G_s - G_t \rVert_F^2 $$

    With `gram` "cosine" G holds the cosines of all ordered pairs; with "row_normalized"
    the inner products of the raw embeddings, each row of G divided by its length.

    Reference:
        Tung and Mori, 2019, arXiv:1907.09682, is "row_normalized", on feature maps;
        TFace `distillation/similarity_perserving.py` is "cosine".
    """

    def matrix(embeddings):
        if gram == "cosine":
            return similarity_matrix(l2_normalize(embeddings))
        return l2_normalize(similarity_matrix(embeddings))

    return tf.reduce_mean(tf.math.squared_difference(matrix(student), matrix(teacher)))


@register
class SPLoss(DistillationLoss):
    """Compares similarity matrices: the term `sp` is `similarity_preserving`."""

    default_name = "sp"

    def __init__(self, gram: str = "cosine", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gram = check_choice("gram", gram, GRAMS)

    def compute(self, student: tf.Tensor, teacher: tf.Tensor) -> TermsAndMonitor:
        return {self.name: similarity_preserving(student, teacher, self.gram)}, {}


def correlation_matrix(
    embeddings: tf.Tensor, gamma: float = 0.4, orders: int = 2
) -> tf.Tensor:
    r"""Returns the Gaussian kernel of all pairs as a polynomial of their cosines.

    $$ K = \sum_{p=0}^{P} e^{-2\gamma} \frac{(2\gamma)^p}{p!} S^p $$

    with S the cosines and powers entry by entry: the Taylor series of
    $e^{-\gamma \lVert \hat f_i - \hat f_j \rVert^2}$ up to the order P >= 1. Float32
    `(batch, batch)`.
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

    default_name = "cckd"

    def __init__(self, gamma: float = 0.4, orders: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gamma = check_positive("gamma", gamma)
        self.orders = int(check_range("orders", orders, 1))

    def compute(self, student: tf.Tensor, teacher: tf.Tensor) -> TermsAndMonitor:
        kernels = [
            correlation_matrix(embeddings, self.gamma, self.orders)
            for embeddings in (student, teacher)
        ]
        return {self.name: tf.reduce_mean(tf.math.squared_difference(*kernels))}, {}


def probability_divergence(student: tf.Tensor, teacher: tf.Tensor) -> tf.Tensor:
    r"""Averages the divergence of two models' probabilities of neighbours.

    $$ p_{j|i} = \frac{k_{ij}}{\sum_l k_{il}}, \quad k_{ij} = \frac{\cos_{ij} + 1}{2},
        \quad L = \frac{1}{B} \sum_i \mathrm{KL}(p^t_{\cdot|i} \| p^s_{\cdot|i}) $$

    Reference:
        Passalis and Tefas, ECCV 2018, with the cosine kernel. Their code averages over
        all B^2 entries: 1/B of this.
    """

    def probabilities(embeddings):
        # A kernel of 0 would have no logarithm.
        kernel = (similarity_matrix(l2_normalize(embeddings)) + 1.0) / 2 + _LEAST_KERNEL
        return kernel / tf.reduce_sum(kernel, axis=1, keepdims=True)

    of_student, of_teacher = probabilities(student), probabilities(teacher)
    apart = tf.math.log(of_teacher) - tf.math.log(of_student)
    return tf.reduce_mean(tf.reduce_sum(of_teacher * apart, axis=1))


@register
class PKTLoss(DistillationLoss):
    """Compares who is near whom: the term `pkt` is `probability_divergence`."""

    default_name = "pkt"

    def compute(self, student: tf.Tensor, teacher: tf.Tensor) -> TermsAndMonitor:
        return {self.name: probability_divergence(student, teacher)}, {}
