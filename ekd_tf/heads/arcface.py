"""Additive angular margin."""

from __future__ import annotations

import math

import tensorflow as tf

from ekd_tf.heads.base import MarginHead
from ekd_tf.keras_compat import register


def arcface_target(cosine, margin):
    r"""Adds a margin to the angle to the true identity's centre.

    $$ t(\theta) = \begin{cases} \cos(\theta + m) & \theta < \pi - m \\
        \cos\theta - m \sin m & \text{otherwise} \end{cases} $$

    Beyond $\pi - m$ the cosine of the sum would rise again and reward a larger
    angle; the second case keeps the target falling.

    Args:
        cosine: Float32 tensor in [-1, 1] up to rounding: cosines to the true centres.
        margin: Float in [0, pi/2), or tensor of them that broadcasts, radians.

    Returns:
        Float32 tensor of the same shape. Its gradient is finite everywhere: at a
        cosine of exactly 1, where the slope has no limit, it is cos(margin).

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
    """Gives logits with an additive angular margin at the true identity.

    The target's logit is `scale * arcface_target(cosine, margin)`, every other one
    `scale * cosine`. Inputs, output and state as in `MarginHead`.

    Args:
        num_identities: Int >= 2.
        scale: Float > 0, multiplies the cosines.
        margin: Float in [0, pi/2), radians.

    Raises:
        ValueError: If an argument is outside its range.

    Reference:
        Deng et al., 2019, arXiv:1801.07698.
    """

    def __init__(
        self, num_identities: int, scale: float = 64.0, margin: float = 0.5, **kwargs
    ):
        if not 0 <= margin < math.pi / 2:
            raise ValueError(
                f"`margin` must be in [0, pi/2) radians. Received: margin={margin}"
            )
        super().__init__(num_identities, scale, margin, **kwargs)

    def target_cosine(self, cosine):
        return arcface_target(cosine, self.margin)
