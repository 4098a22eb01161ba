"""ProxylessKD, also ArcDistill: a margin softmax on the teacher's class centres."""

import math

from ekd_tf.checks import check_positive
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
        centres: As in `CentreLoss`.
        margin: Float in [0, pi/2), radians.
        scale: Float > 0 of the logits.
        student_dim: As in `ProjectedLoss`.
        num_identities: As in `CentreLoss`.
        teacher_dim: As in `CentreLoss`.
        name: Name of the layer and of its term.

    Returns:
        `{"proxyless_kd": ...}`, float32 scalar >= 0.

    State:
        As in `CentreLoss`.

    Raises:
        ValueError: As in `CentreLoss`; an argument outside its range; at a call, no
            labels.

    Reference:
        Shi et al., 2020, arXiv:2011.00265, which inherits the teacher's classifier;
        ArcDistill of Boutros et al., 2024, arXiv:2407.01332, is the same with ArcFace.
    """

    uses_labels = True

    def __init__(
        self,
        centres=None,
        margin=0.5,
        scale=64.0,
        student_dim=None,
        num_identities=None,
        teacher_dim=None,
        name="proxyless_kd",
        **kwargs,
    ):
        check_range("margin", margin, 0, math.pi / 2, high_open=True)
        check_positive("scale", scale)
        super().__init__(
            centres, student_dim, num_identities, teacher_dim, name=name, **kwargs
        )
        self.margin = float(margin)
        self.scale = float(scale)

    def compute(self, student, teacher, labels, image_ids, training):
        """Returns the term; nothing to watch."""
        value = margin_cross_entropy(
            self.cosines(self.project(student, teacher)),
            labels,
            self.scale,
            lambda cosine: arcface_target(cosine, self.margin),
        )
        return {self.name: value}, {}

    def get_config(self):
        """Returns the arguments the layer was made with."""
        return {
            **super().get_config(),
            "margin": self.margin,
            "scale": self.scale,
        }
