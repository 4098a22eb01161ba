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
_NO_NEIGHBOUR = -1e9


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
        self.length = int(check_range("length", length, 2))

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
