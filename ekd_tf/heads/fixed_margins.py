"""Heads whose margin is fixed: ArcFace, CosFace, and the three margins at once."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from ekd_tf.checks import check_angle
from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range
from ekd_tf.heads.base import MarginHead
from ekd_tf.keras_compat import register
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
