"""Losses that compare two models' cosines of pairs of images."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from ekd_tf.checks import check_choice
from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range
from ekd_tf.checks import check_whole
from ekd_tf.keras_compat import register
from ekd_tf.losses.base import DistillationLoss
from ekd_tf.losses.base import MemoryLoss
from ekd_tf.losses.base import TermsAndMonitor
from ekd_tf.ops.numerics import l2_normalize
from ekd_tf.ops.numerics import similarity_matrix

# Added to what has a logarithm.
_LEAST = 1e-6
# Below any score: -alpha 2^beta of opposite rows for all sensible alpha and beta.
_NO_NEIGHBOUR = -1e9


@register
class SPLoss(DistillationLoss):
    r"""Averages the squared difference of two similarity matrices, the term `sp`.

    $$ L = \frac{1}{B^2} \lVert G_s - G_t \rVert_F^2 $$

    With `gram` "cosine" G holds the cosines of all ordered pairs; with "row_normalized"
    the inner products of the raw embeddings, each row of G divided by its length.

    Reference:
        Tung and Mori, 2019, arXiv:1907.09682, is "row_normalized", on feature maps;
        TFace `distillation/similarity_perserving.py` is "cosine".
    """

    default_name = "sp"
    usual_share = 0.3

    def __init__(self, gram: str = "cosine", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gram = check_choice("gram", gram, ("cosine", "row_normalized"))

    def compute(self, student: tf.Tensor, teacher: tf.Tensor) -> TermsAndMonitor:
        def matrix(embeddings):
            if self.gram == "cosine":
                return similarity_matrix(l2_normalize(embeddings))
            return l2_normalize(similarity_matrix(embeddings))

        square = tf.math.squared_difference(matrix(student), matrix(teacher))
        return {self.name: tf.reduce_mean(square)}, {}


@register
class CCKDLoss(DistillationLoss):
    r"""Averages the squared difference of two kernel matrices, the term `cckd`.

    $$ L = \frac{1}{B^2} \sum_{ij} (K^s_{ij} - K^t_{ij})^2, \quad
        K = \sum_{p=0}^{P} e^{-2\gamma} \frac{(2\gamma)^p}{p!} S^p $$

    with S the cosines and powers entry by entry: the Taylor series of the Gaussian
    kernel $e^{-\gamma \lVert \hat f_i - \hat f_j \rVert^2}$ up to the order P >= 1.

    Reference:
        Peng et al., 2019, arXiv:1904.01802: gamma 0.4, order 2.
        TFace `recognition/tasks/ekd/distillation/cc.py` sums the powers 0 to P - 1
        only, so its P = 2 is `orders=1` here, which is (2 gamma e^{-2 gamma})^2 =
        0.1292 times SP and compares nothing SP does not.
    """

    default_name = "cckd"
    usual_share = 0.3

    def __init__(self, gamma: float = 0.4, orders: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gamma = check_positive("gamma", gamma)
        self.orders = check_whole("orders", orders, 1)

    def compute(self, student: tf.Tensor, teacher: tf.Tensor) -> TermsAndMonitor:
        def kernel(embeddings):
            cosines = similarity_matrix(l2_normalize(embeddings))
            series = tf.zeros_like(cosines)
            for p in reversed(range(self.orders + 1)):
                factor = math.exp(-2 * self.gamma) * (2 * self.gamma) ** p
                series = series * cosines + factor / math.factorial(p)
            return series

        square = tf.math.squared_difference(kernel(student), kernel(teacher))
        return {self.name: tf.reduce_mean(square)}, {}


@register
class PKTLoss(DistillationLoss):
    r"""Averages the divergence of two probabilities of neighbours, the term `pkt`.

    $$ p_{j|i} = \frac{k_{ij}}{\sum_l k_{il}}, \quad k_{ij} = \frac{\cos_{ij} + 1}{2},
        \quad L = \frac{1}{B} \sum_i \mathrm{KL}(p^t_{\cdot|i} \| p^s_{\cdot|i}) $$

    Reference:
        Passalis and Tefas, ECCV 2018, with the cosine kernel. Their code averages over
        all B^2 entries: 1/B of this.
    """

    default_name = "pkt"
    usual_share = 0.3

    def compute(self, student: tf.Tensor, teacher: tf.Tensor) -> TermsAndMonitor:
        def probabilities(embeddings):
            cosines = similarity_matrix(l2_normalize(embeddings))
            kernel = (cosines + 1.0) / 2 + _LEAST
            return kernel / tf.reduce_sum(kernel, axis=1, keepdims=True)

        p_student, p_teacher = probabilities(student), probabilities(teacher)
        apart = tf.math.log(p_teacher) - tf.math.log(p_student)
        divergences = tf.reduce_sum(p_teacher * apart, axis=1)
        return {self.name: tf.reduce_mean(divergences)}, {}


@register
class DarkRankLoss(DistillationLoss):
    r"""Makes the teacher's order of each image's neighbours likely to the student.

    $$ L = -\frac{1}{B} \sum_i \sum_{k=1}^{n} \log
        \frac{e^{\sigma^s_{i,\pi(k)}}}{\sum_{l=k}^{n} e^{\sigma^s_{i,\pi(l)}}},
        \qquad \sigma_{ij} = -\alpha \lVert \hat f_i - \hat f_j \rVert^\beta $$

    with $\pi$ the teacher's n nearest neighbours of image i, nearest first: n is
    `length`, or fewer where the batch holds fewer. The term is `darkrank`, 0 with a
    zero gradient for fewer than three rows. From `beta` 2 up the gradient is finite
    where images repeat.

    Reference:
        Chen et al., 2018, arXiv:1707.01220, the hard form. TFace
        `recognition/tasks/ekd/distillation/darkrank.py` drops each image's nearest
        row, taking it for the image itself, which it is not where images repeat;
        here the row itself is left out. TFace orders 3, the RKD authors' code 4.
    """

    default_name = "darkrank"

    def __init__(
        self,
        alpha: float = 3.0,
        beta: float = 3.0,
        length: int = 3,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.alpha = check_positive("alpha", alpha)
        self.beta = check_range("beta", beta, 2)
        self.length = check_whole("length", length, 2)

    def compute(self, student: tf.Tensor, teacher: tf.Tensor) -> TermsAndMonitor:
        rows = tf.shape(student)[0]

        def scores(embeddings):
            cosines = similarity_matrix(l2_normalize(embeddings))
            squares = tf.maximum(2.0 - 2.0 * cosines, 0.0)
            scores = -self.alpha * tf.pow(squares, self.beta / 2)
            return tf.where(tf.eye(rows, dtype=tf.bool), _NO_NEIGHBOUR, scores)

        ranked, order = tf.math.top_k(scores(teacher), tf.minimum(self.length, rows))
        chosen = tf.gather(scores(student), order, batch_dims=1)
        real = tf.cast(ranked > _NO_NEIGHBOUR, tf.float32)
        # Least likely first, the sum of each position and those behind it.
        behind = tf.math.cumulative_logsumexp(chosen, axis=1, reverse=True)
        costs = tf.reduce_sum((behind - chosen) * real, axis=1)
        return {self.name: tf.reduce_mean(costs)}, {}


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
        bins: Int >= 2. It and the size of the bank are ours, not the paper's.

    Reference:
        Yu et al., ICCV 2023.
    """

    default_name = "icd_face"
    usual_share = 0.3
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
        self.bins = check_whole("bins", bins, 2)
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
        rows = [*units, labels, images]
        if self.memory:
            rows = self._remembered(student, teacher, image_ids).behind(*rows)
        *galleries, known, others = rows
        positive = labels[:, None] == known[None, :]
        positive &= images[:, None] != others[None, :]
        p_student, p_teacher = (
            soft_histogram(tf.matmul(*both, transpose_b=True), positive, self.bins)
            for both in zip(units, galleries)
        )
        apart = tf.math.log(p_teacher + _LEAST) - tf.math.log(p_student + _LEAST)
        value = tf.reduce_sum(p_teacher * apart)
        if training and self.memory:
            finite = tf.math.is_finite(sum(tf.reduce_sum(rows) for rows in units))
            self._remember(*units, labels, image_ids, finite)
        pairs = tf.math.count_nonzero(positive, dtype=tf.float32)
        return {self.name: value}, {f"{self.name}/pairs": pairs}
