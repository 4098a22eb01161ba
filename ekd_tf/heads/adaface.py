"""AdaFace: the margin follows the embedding's length, a measure of image quality."""

from __future__ import annotations

import math

import tensorflow as tf

from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range
from ekd_tf.heads.base import MarginHead
from ekd_tf.heads.base import replace_targets
from ekd_tf.keras_compat import add_state
from ekd_tf.keras_compat import register
from ekd_tf.ops.collective import sum_over_replicas
from ekd_tf.ops.numerics import safe_acos


def adaface_target(cosine: tf.Tensor, quality: tf.Tensor, margin: float) -> tf.Tensor:
    r"""Adds a margin that turns from angular to additive as quality rises.

    $$ t = \cos\big(\mathrm{clip}(\theta - m z, \epsilon, \pi - \epsilon)\big) -
        (m + m z) $$

    Args:
        cosine: Float32 tensor `(batch,)` in [-1, 1] up to rounding.
        quality: Float32 tensor `(batch,)` in [-1, 1]: z. At -1 this is ArcFace's
            target, at 0 CosFace's.
        margin: Float >= 0, radians and cosine at once: m.

    Returns:
        Float32 tensor `(batch,)`. Its gradient is finite everywhere: zero within 1e-6
        of the cosines -1 and 1, and where the angle is clipped.

    Reference:
        Kim et al., 2022, arXiv:2204.00964; epsilon 1e-3 as in the authors'
        `head.py`.
    """
    angle = safe_acos(cosine) - margin * quality
    angle = tf.clip_by_value(angle, 1e-3, math.pi - 1e-3)
    return tf.cos(angle) - margin * (1.0 + quality)


@register
class AdaFace(MarginHead):
    r"""Gives logits whose margin depends on the length of the raw embedding.

    The target's logit is `scale * adaface_target(cosine, z, margin)`, every other one
    `scale * cosine`, with the quality

    $$ z = \mathrm{clip}\Big(h \frac{\lVert f \rVert - \mu}{\sigma}, -1, 1\Big) $$

    from running mean and deviation of the lengths; z has no gradient. All else as in
    `MarginHead`.

    Args:
        margin: Float in [0, pi/2): m.
        concentration: Float > 0: h.
        momentum: Float in (0, 1]: weight of the newest batch in mean and deviation.

    State:
        length_mean, length_deviation: float32 scalars, from 20 and 100; over the rows
        `in_margin` of the global batch, lengths clipped to [1e-3, 100]. They are
        updated before they are used; a batch with fewer than two such rows, or with
        one that is not finite, leaves them alone. Besides as in `MarginHead`.

    Reference:
        Kim et al., 2022, arXiv:2204.00964; m 0.4, h 0.333, momentum 0.01 and the
        starting values as in the authors' code, which keeps them per GPU.
    """

    def __init__(
        self,
        num_identities: int,
        scale: float = 64.0,
        margin: float = 0.4,
        concentration: float = 0.333,
        momentum: float = 0.01,
        **kwargs,
    ):
        check_range("margin", margin, low=0, high=math.pi / 2, high_open=True)
        check_positive("concentration", concentration)
        check_range("momentum", momentum, 0, 1, low_open=True)
        super().__init__(num_identities, scale, margin, **kwargs)
        self.concentration = float(concentration)
        self.momentum = float(momentum)

    def build(self, embeddings_shape):
        super().build(embeddings_shape)
        self.length_mean = add_state(self, "length_mean", initializer=20.0)
        self.length_deviation = add_state(self, "length_deviation", initializer=100.0)

    def apply_margin(self, cosine, labels, embeddings, in_margin, training):
        lengths = tf.norm(tf.stop_gradient(embeddings), axis=1)
        lengths = tf.clip_by_value(lengths, 1e-3, 100.0)
        mean = tf.convert_to_tensor(self.length_mean)
        deviation = tf.convert_to_tensor(self.length_deviation)
        if training:
            mean, deviation = self._updated(mean, deviation, lengths, in_margin)
        quality = (lengths - mean) / (deviation + 1e-3) * self.concentration
        quality = tf.clip_by_value(quality, -1.0, 1.0)
        target = self.with_gradient(
            lambda own: adaface_target(own, quality, self.margin)
        )
        return replace_targets(cosine, labels, target)

    def _updated(self, mean, deviation, lengths, in_margin):
        total, count = tf.unstack(
            sum_over_replicas(
                tf.stack([tf.reduce_sum(lengths * in_margin), tf.reduce_sum(in_margin)])
            )
        )
        batch_mean = tf.math.divide_no_nan(total, count)
        squares = tf.reduce_sum(in_margin * (lengths - batch_mean) ** 2)
        # Of a sample, as torch computes it.
        variance = tf.math.divide_no_nan(sum_over_replicas(squares), count - 1.0)
        usable = (count > 1) & tf.math.is_finite(variance)
        weight = tf.where(usable, self.momentum, 0.0)
        batch_mean = tf.where(usable, batch_mean, mean)
        batch_deviation = tf.where(usable, tf.sqrt(variance), deviation)
        mean += weight * (batch_mean - mean)
        deviation += weight * (batch_deviation - deviation)
        self.length_mean.assign(mean)
        self.length_deviation.assign(deviation)
        return mean, deviation
