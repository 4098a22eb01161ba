"""DarkRank: the teacher's order of each image's neighbours, made likely."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range
from ekd_tf.keras_compat import register
from ekd_tf.losses.base import DistillationLoss
from ekd_tf.losses.base import TermsAndMonitor
from ekd_tf.ops.numerics import l2_normalize
from ekd_tf.ops.numerics import similarity_matrix

# Below any score: -alpha 2^beta of opposite rows for all sensible alpha and beta.
NO_NEIGHBOUR = -1e9


def neighbour_scores(embeddings: tf.Tensor, alpha: float, beta: float) -> tf.Tensor:
    """Returns the score -alpha d^beta of all pairs, d the distance of unit rows.

    Float32 `(batch, batch)`; `NO_NEIGHBOUR` on the diagonal. From `beta` 2 up the
    gradient of d^beta is finite at 0.
    """
    cosines = similarity_matrix(l2_normalize(embeddings))
    squares = tf.maximum(2.0 - 2.0 * cosines, 0.0)
    scores = -alpha * tf.pow(squares, beta / 2)
    batch = tf.shape(scores)[0]
    return tf.where(tf.eye(batch, dtype=tf.bool), NO_NEIGHBOUR, scores)


def darkrank(
    student: tf.Tensor,
    teacher: tf.Tensor,
    alpha: float = 3.0,
    beta: float = 3.0,
    length: int = 3,
) -> tf.Tensor:
    r"""Returns how unlikely the teacher's order of neighbours is to the student.

    $$ L = -\frac{1}{B} \sum_i \sum_{k=1}^{n} \log
        \frac{e^{\sigma^s_{i,\pi(k)}}}{\sum_{l=k}^{n} e^{\sigma^s_{i,\pi(l)}}},
        \qquad \sigma_{ij} = -\alpha \lVert \hat f_i - \hat f_j \rVert^\beta $$

    with $\pi$ the teacher's n nearest neighbours of image i, nearest first: n is
    `length`, or fewer where the batch holds fewer. A float32 scalar >= 0; 0 with a zero
    gradient for fewer than three rows.

    Reference:
        Chen et al., 2018, arXiv:1707.01220, the hard form. TFace
        `recognition/tasks/ekd/distillation/darkrank.py` drops each image's nearest
        row, taking it for the image itself, which it is not where images repeat;
        here the row itself is left out. TFace orders 3, the RKD authors' code 4.
    """
    student = neighbour_scores(student, alpha, beta)
    teacher = neighbour_scores(teacher, alpha, beta)
    ranked, order = tf.math.top_k(
        tf.stop_gradient(teacher), tf.minimum(length, tf.shape(teacher)[0])
    )
    chosen = tf.gather(student, order, batch_dims=1)
    real = tf.cast(ranked > NO_NEIGHBOUR, tf.float32)
    # Least likely first, the sum of each position and those behind it.
    behind = tf.math.cumulative_logsumexp(chosen, axis=1, reverse=True)
    return tf.reduce_mean(tf.reduce_sum((behind - chosen) * real, axis=1))


@register
class DarkRankLoss(DistillationLoss):
    """Makes the teacher's order of neighbours likely: the term is `darkrank`."""

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
        self.length = int(check_range("length", length, 2))

    def compute(self, student: tf.Tensor, teacher: tf.Tensor) -> TermsAndMonitor:
        value = darkrank(student, teacher, self.alpha, self.beta, self.length)
        return {self.name: value}, {}
