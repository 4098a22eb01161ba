"""The three margins of SphereFace, ArcFace and CosFace at once."""

from __future__ import annotations

import math

import tensorflow as tf

from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range
from ekd_tf.heads.base import MarginHead
from ekd_tf.keras_compat import register
from ekd_tf.ops.numerics import safe_acos


def combined_target(cosine, multiplier, angular, additive):
    r"""Multiplies the angle to the true identity's centre, adds to it and subtracts.

    $$ t(\theta) = \begin{cases} \cos(m_1 \theta + m_2) - m_3
            & m_1 \theta + m_2 < \pi \\
        -1 - (m_1 \theta + m_2 - \pi) - m_3 & \text{otherwise} \end{cases} $$

    Past $\pi$ the cosine would rise again and reward a larger angle; the second case
    keeps the target falling, without a step.

    Args:
        cosine: Float32 tensor in [-1, 1] up to rounding.
        multiplier: Float > 0: m1.
        angular: Float in [0, pi/2), radians: m2.
        additive: Float in [0, 1), a cosine: m3.

    Returns:
        Float32 tensor of the same shape. Its gradient is finite everywhere: zero
        within 1e-6 of the cosines -1 and 1.

    Reference:
        Deng et al., 2019, arXiv:1801.07698, equation 4, which does not say what
        happens past pi; the insightface code in MXNet lets the target rise there.
    """
    angle = multiplier * safe_acos(cosine) + angular
    beyond = -1.0 - (angle - math.pi)
    return tf.where(angle < math.pi, tf.cos(angle), beyond) - additive


@register
class CombinedMargin(MarginHead):
    """Gives logits with a multiplied, an added and a subtracted margin.

    The target's logit is `scale * combined_target(cosine, margin1, margin2, margin3)`,
    every other one `scale * cosine`. Inputs, output, state and other arguments as in
    `MarginHead`.

    Args:
        num_identities: Int >= 2.
        scale: Float > 0, multiplies the cosines.
        margin1: Float > 0, multiplies the angle (SphereFace).
        margin2: Float in [0, pi/2), radians, added to it (ArcFace).
        margin3: Float in [0, 1), a cosine, subtracted (CosFace).

    Raises:
        ValueError: If an argument is outside its range.

    Reference:
        Deng et al., 2019, arXiv:1801.07698, equation 4; 1, 0.3, 0.2 is its CM1.
    """

    def __init__(
        self,
        num_identities: int,
        scale: float = 64.0,
        margin1: float = 1.0,
        margin2: float = 0.3,
        margin3: float = 0.2,
        **kwargs,
    ):
        check_positive("margin1", margin1)
        check_range("margin2", margin2, low=0, high=math.pi / 2, high_open=True)
        check_range("margin3", margin3, low=0, high=1, high_open=True)
        super().__init__(num_identities, scale, margin2, **kwargs)
        self.margin1 = float(margin1)
        self.margin2 = float(margin2)
        self.margin3 = float(margin3)

    def target_cosine(self, cosine):
        return combined_target(cosine, self.margin1, self.margin2, self.margin3)

    def get_config(self):
        config = super().get_config()
        del config["margin"]
        return {
            **config,
            "margin1": self.margin1,
            "margin2": self.margin2,
            "margin3": self.margin3,
        }
