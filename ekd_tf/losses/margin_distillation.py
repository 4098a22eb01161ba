"""MarginDistillation: frozen class centres and the teacher's margin per image."""

import math

import tensorflow as tf

from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range
from ekd_tf.heads import arcface_target
from ekd_tf.keras_compat import register
from ekd_tf.losses.centres import CentreLoss
from ekd_tf.losses.centres import margin_cross_entropy
from ekd_tf.ops.numerics import l2_normalize


def margins_of_teacher(teacher_cosines, min_margin=0.35, max_margin=0.55):
    r"""Returns a margin per image that grows with the teacher's cosine.

    $$ m_i = m_{min} + (m_{max} - m_{min}) \frac{\max(0, c_i)}{\max_j c_j} $$

    Args:
        teacher_cosines: Float32 tensor `(batch,)`: cosine of the teacher's embedding
            and the class centre of the image's identity.
        min_margin: Float, radians: where the cosine is 0 or below.
        max_margin: Float, radians: where it is the batch's largest.

    Returns:
        Float32 tensor `(batch,)` in [min_margin, max_margin]; `min_margin` everywhere
        where no cosine is positive.
    """
    cosines = tf.maximum(teacher_cosines, 0.0)
    share = tf.math.divide_no_nan(cosines, tf.reduce_max(cosines))
    return min_margin + (max_margin - min_margin) * share


@register
class MarginDistillationLoss(CentreLoss):
    """Classifies by the teacher's centres, with a wider margin where it is sure.

    ArcFace's cross entropy of the student's cosines to the teacher's frozen class
    centres; the margin of each image is `margins_of_teacher`.

    Args:
        centres: As in `CentreLoss`.
        min_margin: Float >= 0, radians.
        max_margin: Float < pi/2, radians, not below `min_margin`.
        scale: Float > 0 of the logits.
        student_dim: As in `ProjectedLoss`.
        num_identities: As in `CentreLoss`.
        teacher_dim: As in `CentreLoss`.
        name: Name of the layer and of its term.

    Returns:
        `{"margin_distillation": ...}`, float32 scalar >= 0. To watch:
        `margin_distillation/margin`, the batch's mean margin in radians.

    State:
        As in `CentreLoss`.

    Raises:
        ValueError: As in `CentreLoss`; an argument outside its range; at a call, no
            labels.

    Reference:
        Svitov and Alyamkin, 2020, arXiv:2003.02586. Where the authors' code takes
        cos(theta + m) as it is, the target goes on falling past pi - m here, see
        `arcface_target`.
    """

    uses_labels = True

    def __init__(
        self,
        centres=None,
        min_margin=0.35,
        max_margin=0.55,
        scale=64.0,
        student_dim=None,
        num_identities=None,
        teacher_dim=None,
        name="margin_distillation",
        **kwargs,
    ):
        check_range("max_margin", max_margin, 0, math.pi / 2, high_open=True)
        check_range("min_margin", min_margin, 0, max_margin)
        check_positive("scale", scale)
        super().__init__(
            centres, student_dim, num_identities, teacher_dim, name=name, **kwargs
        )
        self.min_margin = float(min_margin)
        self.max_margin = float(max_margin)
        self.scale = float(scale)

    def compute(self, student, teacher, labels, image_ids, training):
        """Returns the term, and the mean margin to watch."""
        cosines = tf.reduce_sum(
            l2_normalize(teacher) * self.own_centres(labels), axis=1
        )
        margins = margins_of_teacher(cosines, self.min_margin, self.max_margin)
        value = margin_cross_entropy(
            self.cosines(self.project(student, teacher)),
            labels,
            self.scale,
            lambda cosine: arcface_target(cosine, margins),
        )
        monitor = {f"{self.name}/margin": tf.reduce_mean(margins)}
        return {self.name: value}, monitor

    def get_config(self):
        """Returns the arguments the layer was made with."""
        return {
            **super().get_config(),
            "min_margin": self.min_margin,
            "max_margin": self.max_margin,
            "scale": self.scale,
        }
