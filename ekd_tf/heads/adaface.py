"""AdaFace: the margin follows the embedding's length, a measure of image quality."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from ekd_tf.checks import check_angle
from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range
from ekd_tf.heads.base import MarginHead
from ekd_tf.keras_compat import add_state
from ekd_tf.keras_compat import register
from ekd_tf.ops.collective import mean_over_replicas
from ekd_tf.ops.numerics import safe_acos


@register
class AdaFace(MarginHead):
    r"""Gives logits whose margin depends on the length of the raw embedding.

    $$ t = \cos\big(\mathrm{clip}(\theta - m z, \epsilon, \pi - \epsilon)\big) -
        (m + m z), \quad
        z = \mathrm{clip}\Big(h \frac{\lVert f \rVert - \mu}{\sigma}, -1, 1\Big) $$

    The quality z, from running mean and deviation of the lengths, has no gradient. At
    -1 this is ArcFace's target, at 0 CosFace's. m is radians and cosine at once. All
    else as in `MarginHead`.

    Args:
        margin: Float in [0, pi/2): m.
        concentration: Float > 0: h.
        momentum: Float in (0, 1]: weight of the newest batch in mean and deviation.

    State:
        length_mean, length_deviation: float32 scalars, from 20 and 100; over the rows
        `in_margin` of the global batch, lengths clipped to [1e-3, 100]. A batch with
        fewer than two such rows, or with one that is not finite, leaves them alone.

    Reference:
        Kim et al., 2022, arXiv:2204.00964; m 0.4, h 0.333, momentum 0.01, epsilon 1e-3
        and the starting values as in the authors' code, which keeps them per GPU.
    """

    def __init__(
        self,
        num_identities: int,
        scale: float = 64.0,
        margin: float = 0.4,
        concentration: float = 0.333,
        momentum: float = 0.01,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_identities, scale, **kwargs)
        self.margin = check_angle("margin", margin)
        self.concentration = check_positive("concentration", concentration)
        self.momentum = check_range("momentum", momentum, 0, 1, low_open=True)

    def build(self, embeddings_shape: tuple) -> None:
        super().build(embeddings_shape)
        self.length_mean = add_state(self, "length_mean", initializer=20.0)
        self.length_deviation = add_state(self, "length_deviation", initializer=100.0)

    def target_cosine(self, cosine: tf.Tensor, embeddings: tf.Tensor) -> tf.Tensor:
        offset = _lengths(embeddings) - tf.convert_to_tensor(self.length_mean)
        deviation = tf.convert_to_tensor(self.length_deviation) + 1e-3
        quality = tf.clip_by_value(self.concentration * offset / deviation, -1.0, 1.0)
        angle = safe_acos(cosine) - self.margin * quality
        angle = tf.clip_by_value(angle, 1e-3, math.pi - 1e-3)
        return tf.cos(angle) - self.margin * (1.0 + quality)

    def update_averages(
        self, cosine: tf.Tensor, embeddings: tf.Tensor, in_margin: tf.Tensor
    ) -> None:
        lengths = _lengths(embeddings)
        mean, count = mean_over_replicas(lengths, in_margin)
        variance, _ = mean_over_replicas((lengths - mean) ** 2, in_margin)
        # Of a sample, as torch computes it.
        deviation = tf.sqrt(tf.math.divide_no_nan(variance * count, count - 1.0))
        usable = (count > 1) & tf.math.is_finite(deviation)
        for variable, batch in (
            (self.length_mean, mean),
            (self.length_deviation, deviation),
        ):
            old = tf.convert_to_tensor(variable)
            moved = old + self.momentum * (batch - old)
            variable.assign(tf.where(usable, moved, old))


def _lengths(embeddings):
    return tf.clip_by_value(tf.norm(embeddings, axis=1), 1e-3, 100.0)
