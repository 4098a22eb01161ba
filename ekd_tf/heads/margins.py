"""The margin heads, from ArcFace to AdaFace."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from ekd_tf.checks import check_angle
from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range
from ekd_tf.heads.base import MarginHead
from ekd_tf.heads.base import TargetCosine
from ekd_tf.heads.base import target_entries
from ekd_tf.keras_compat import add_state
from ekd_tf.keras_compat import register
from ekd_tf.ops.collective import mean_over_replicas
from ekd_tf.ops.numerics import safe_acos

# Bounds of `default_scale`: at 800 and 8,767 identities 16 is above 32 and 64; the
# formula's 9 is level with it (flags/README.md).
SCALES = (16.0, 64.0)


def default_scale(num_identities: int) -> float:
    r"""Returns a scale for the logits of a head: $\sqrt 2 \log(C - 1)$ within `SCALES`.

    Reference:
        Zhang et al., 2019, arXiv:1905.00292, equation 12. The bounds are ours.
    """
    low, high = SCALES
    scale = math.sqrt(2) * math.log(max(num_identities - 1, 1))
    return min(max(scale, low), high)


def arcface_target(cosine: tf.Tensor, margin: float | tf.Tensor) -> tf.Tensor:
    r"""Adds a margin to the angle to the true identity's centre.

    $$ t(\theta) = \begin{cases} \cos(\theta + m) & \theta < \pi - m \\
        \cos\theta - m \sin m & \text{otherwise} \end{cases} $$

    Beyond $\pi - m$ the cosine of the sum would rise again and reward a larger angle.

    The margin is one of [0, pi/2) radians, or a tensor of them. The gradient is finite
    everywhere: at a cosine of exactly 1, where the slope has no limit, it is
    cos(margin).

    Reference:
        Deng et al., 2019, arXiv:1801.07698, equation 3; the second case as in
        insightface `recognition/arcface_torch/losses.py`, ArcFace, not easy_margin.
    """
    # A square root has no gradient at 0, and rounding takes a cosine beyond 1; the
    # floor is below float32's resolution.
    sine = tf.sqrt(tf.maximum((1.0 - cosine) * (1.0 + cosine), 1e-12))
    margin = tf.convert_to_tensor(margin, tf.float32)
    moved = cosine * tf.cos(margin) - sine * tf.sin(margin)
    beyond = cosine - margin * tf.sin(margin)
    return tf.where(cosine > -tf.cos(margin), moved, beyond)


@register
class ArcFace(MarginHead):
    """Adds `arcface_target`, a margin in [0, pi/2) radians, to `MarginHead`."""

    def __init__(
        self,
        num_identities: int,
        scale: float = 64.0,
        margin: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_identities, scale, **kwargs)
        self.margin = check_angle("margin", margin)

    def target_cosine(self, cosine: tf.Tensor, embeddings: tf.Tensor) -> tf.Tensor:
        return arcface_target(cosine, self.margin)


@register
class CosFace(MarginHead):
    """Adds to `MarginHead` a margin in [0, 1), subtracted from the true cosine.

    Reference:
        Wang et al., 2018, arXiv:1801.09414, equation 4.
    """

    def __init__(
        self,
        num_identities: int,
        scale: float = 64.0,
        margin: float = 0.4,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_identities, scale, **kwargs)
        self.margin = check_range("margin", margin, low=0, high=1, high_open=True)

    def target_cosine(self, cosine: tf.Tensor, embeddings: tf.Tensor) -> tf.Tensor:
        return cosine - self.margin


@register
class CombinedMargin(MarginHead):
    r"""Gives logits with a multiplied, an added and a subtracted margin.

    $$ t(\theta) = \begin{cases} \cos(m_1 \theta + m_2) - m_3
            & m_1 \theta + m_2 < \pi \\
        -1 - (m_1 \theta + m_2 - \pi) - m_3 & \text{otherwise} \end{cases} $$

    The second case keeps the target falling, without a step. The gradient is finite
    everywhere: zero within 1e-6 of the cosines -1 and 1. All else as in `MarginHead`.

    Args:
        margin1: Float > 0, multiplies the angle (SphereFace).
        margin2: Float in [0, pi/2), radians, added to it (ArcFace).
        margin3: Float in [0, 1), a cosine, subtracted (CosFace).

    Reference:
        Deng et al., 2019, arXiv:1801.07698, equation 4; 1, 0.3, 0.2 is its CM1. It
        does not say what happens past pi; insightface in MXNet lets the target rise.
    """

    def __init__(
        self,
        num_identities: int,
        scale: float = 64.0,
        margin1: float = 1.0,
        margin2: float = 0.3,
        margin3: float = 0.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_identities, scale, **kwargs)
        self.margin1 = check_positive("margin1", margin1)
        self.margin2 = check_angle("margin2", margin2)
        self.margin3 = check_range("margin3", margin3, low=0, high=1, high_open=True)

    def target_cosine(self, cosine: tf.Tensor, embeddings: tf.Tensor) -> tf.Tensor:
        angle = self.margin1 * safe_acos(cosine) + self.margin2
        beyond = -1.0 - (angle - math.pi)
        return tf.where(angle < math.pi, tf.cos(angle), beyond) - self.margin3


@register
class CurricularFace(MarginHead):
    r"""Gives ArcFace logits whose hard negatives are weighted by the stage t reached.

    $$ N(c_j) = \begin{cases} c_j & c_j \le t(\theta_y) \\
        c_j (t + c_j) & \text{otherwise} \end{cases} $$

    Which negatives are hard is a choice, without gradient to the target $t(\theta_y)$,
    which is that of `ArcFace`. All else as in `MarginHead`.

    Args:
        margin: Float in [0, pi/2), radians.
        momentum: Float in (0, 1]: weight of the newest batch in the stage.

    State:
        stage: float32 scalar, the running mean of the cosine between embeddings and
        their true centres, from 0; over the rows `in_margin` of the global batch. A
        batch without such rows, or whose mean is not finite, leaves it alone.

    Reference:
        Huang et al., 2020, arXiv:2004.00288, momentum 0.01 as in the authors'
        code; TFace `torchkit/head` takes 0.1.
    """

    def __init__(
        self,
        num_identities: int,
        scale: float = 64.0,
        margin: float = 0.5,
        momentum: float = 0.01,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_identities, scale, **kwargs)
        self.margin = check_angle("margin", margin)
        self.momentum = check_range("momentum", momentum, 0, 1, low_open=True)

    def build(self, embeddings_shape: tuple) -> None:
        super().build(embeddings_shape)
        self.stage = add_state(self, "stage")

    def target_cosine(self, cosine: tf.Tensor, embeddings: tf.Tensor) -> tf.Tensor:
        return arcface_target(cosine, self.margin)

    def update_averages(
        self, cosine: tf.Tensor, embeddings: tf.Tensor, in_margin: tf.Tensor
    ) -> None:
        mean, count = mean_over_replicas(cosine, in_margin)
        usable = (count > 0) & tf.math.is_finite(mean)
        _move(self.stage, mean, self.momentum, usable)

    def place_targets(
        self, cosine: tf.Tensor, labels: tf.Tensor, target_cosine: TargetCosine
    ) -> tf.Tensor:
        entries = target_entries(labels)
        target = target_cosine(tf.gather_nd(cosine, entries))
        stage = tf.convert_to_tensor(self.stage)
        hard = cosine > tf.stop_gradient(target)[:, None]
        negatives = tf.where(hard, cosine * (stage + cosine), cosine)
        return tf.tensor_scatter_nd_update(negatives, entries, target)


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
        _move(self.length_mean, mean, self.momentum, usable)
        _move(self.length_deviation, deviation, self.momentum, usable)


def _move(average, batch, momentum, usable):
    """Moves a running average towards that of a batch, if it is `usable`."""
    old = tf.convert_to_tensor(average)
    average.assign(tf.where(usable, old + momentum * (batch - old), old))


def _lengths(embeddings):
    lengths = tf.norm(embeddings, axis=1)
    # Clipped, infinity would count as 100.
    clipped = tf.clip_by_value(lengths, 1e-3, 100.0)
    return tf.where(tf.math.is_finite(lengths), clipped, float("nan"))
