"""ShrinkTeaNet: the teacher's directions, and its classifier shared."""

from __future__ import annotations

import numpy as np

from ekd_tf.checks import check_range
from ekd_tf.keras_compat import register
from ekd_tf.losses.centres import CentreLoss
from ekd_tf.losses.centres import margin_cross_entropy
from ekd_tf.losses.cosine import cosine_distance


@register
class ShrinkTeaNetLoss(CentreLoss):
    r"""Pulls the student's direction to the teacher's, and to its class centre.

    $$ L = \frac{w_a}{B} \sum_i (1 - \hat s_i \cdot \hat t_i) - \frac{w_c}{B} \sum_i
        \log \mathrm{softmax}_{y_i}(\gamma \hat s_i \cdot \hat c) $$

    with $\hat c$ the frozen class centres of the teacher and $\gamma$ the scale.

    Args:
        angular_weight: Float >= 0 of the first term.
        classifier_weight: Float >= 0 of the second.
        Others as in `CentreLoss`, and so is the state.

    Returns:
        `{"shrinkteanet/angular": ..., "shrinkteanet/classifier": ...}`, weighted
        float32 scalars >= 0.

    Reference:
        Duong et al., 2019, arXiv:1905.10620, on the embedding alone; the paper
        distils intermediate features too.
    """

    uses_labels = True

    def __init__(
        self,
        centres: np.ndarray | tuple[int, int],
        angular_weight: float = 1.0,
        classifier_weight: float = 1.0,
        scale: float = 64.0,
        student_dim: int | None = None,
        name: str = "shrinkteanet",
        **kwargs,
    ):
        check_range("angular_weight", angular_weight, 0)
        check_range("classifier_weight", classifier_weight, 0)
        super().__init__(centres, scale, student_dim, name, **kwargs)
        self.angular_weight = float(angular_weight)
        self.classifier_weight = float(classifier_weight)

    def compute(self, student, teacher, labels, image_ids, training):
        projected = self.project(student, teacher)
        classified = margin_cross_entropy(
            self.cosines(projected), labels, self.scale, lambda cosine: cosine
        )
        return {
            f"{self.name}/angular": self.angular_weight
            * cosine_distance(projected, teacher),
            f"{self.name}/classifier": self.classifier_weight * classified,
        }, {}
