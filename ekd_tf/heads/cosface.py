"""Additive cosine margin."""

from __future__ import annotations

from ekd_tf.checks import check_range
from ekd_tf.heads.base import MarginHead
from ekd_tf.keras_compat import register


def cosface_target(cosine, margin):
    """Returns `cosine - margin`.

    Args:
        cosine: Float32 tensor in [-1, 1], cosines to the true centres.
        margin: Float in [0, 1), a cosine.

    Reference:
        Wang et al., 2018, arXiv:1801.09414, equation 4.
    """
    return cosine - margin


@register
class CosFace(MarginHead):
    """Gives logits with an additive cosine margin at the true identity.

    The target's logit is `scale * (cosine - margin)`, every other one
    `scale * cosine`. Inputs, output and state as in `MarginHead`.

    Args:
        num_identities: Int >= 2.
        scale: Float > 0, multiplies the cosines.
        margin: Float in [0, 1), a cosine.

    Raises:
        ValueError: If an argument is outside its range.

    Reference:
        Wang et al., 2018, arXiv:1801.09414.
    """

    def __init__(
        self, num_identities: int, scale: float = 64.0, margin: float = 0.4, **kwargs
    ):
        check_range("margin", margin, low=0, high=1, high_open=True)
        super().__init__(num_identities, scale, margin, **kwargs)

    def target_cosine(self, cosine):
        return cosface_target(cosine, self.margin)
