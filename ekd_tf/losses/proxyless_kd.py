"""ProxylessKD, also ArcDistill: a margin softmax on the teacher's class centres."""

from __future__ import annotations

import math

import numpy as np

from ekd_tf.checks import check_range
from ekd_tf.heads import arcface_target
from ekd_tf.keras_compat import register
from ekd_tf.losses.centres import CentreLoss
from ekd_tf.losses.centres import margin_cross_entropy


@register
class ProxylessKDLoss(CentreLoss):
    """Trains the student by ArcFace against the teacher's frozen class centres.

    The teacher's embeddings of the batch are not used: all it gives is the centres.

    Args:
        margin: Float in [0, pi/2), radians.
        Others as in `CentreLoss`, and so is the state.

    Reference:
        Shi et al., 2020, arXiv:2011.00265, which inherits the teacher's classifier;
        ArcDistill of Boutros et al., 2024, arXiv:2407.01332, is the same with ArcFace.
    """

    uses_labels = True

    def __init__(
        self,
        centres: np.ndarray | tuple[int, int],
        margin: float = 0.5,
        scale: float = 64.0,
        student_dim: int | None = None,
        name: str = "proxyless_kd",
        **kwargs,
    ):
        check_range("margin", margin, 0, math.pi / 2, high_open=True)
        super().__init__(centres, scale, student_dim, name, **kwargs)
        self.margin = float(margin)

    def compute(self, student, teacher, labels, image_ids, training):
        value = margin_cross_entropy(
            self.cosines(self.project(student, teacher)),
            labels,
            self.scale,
            lambda cosine: arcface_target(cosine, self.margin),
        )
        return {self.name: value}, {}
