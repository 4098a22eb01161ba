"""MarginDistillation: frozen class centres and the teacher's margin per image."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from ekd_tf.checks import check_range
from ekd_tf.heads import arcface_target
from ekd_tf.keras_compat import register
from ekd_tf.losses.centres import CentreLoss
from ekd_tf.losses.centres import margin_cross_entropy
from ekd_tf.ops.numerics import l2_normalize


def margins_of_teacher(
    teacher_cosines: tf.Tensor, min_margin: float = 0.35, max_margin: float = 0.55
) -> tf.Tensor:
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
    sureness = tf.math.divide_no_nan(cosines, tf.reduce_max(cosines))
    return min_margin + (max_margin - min_margin) * sureness


@register
class MarginDistillationLoss(CentreLoss):
    """Classifies by the teacher's centres, with a wider margin where it is sure.

    ArcFace's cross entropy of the student's cosines to the teacher's frozen class
    centres; the margin of each image is `margins_of_teacher`.

    Args:
        min_margin: Float >= 0, radians.
        max_margin: Float < pi/2, radians, not below `min_margin`.
        Others as in `CentreLoss`, and so is the state.

    Returns:
        `{"margin_distillation": ...}`, float32 scalar >= 0. To watch:
        `margin_distillation/margin`, the batch's mean margin in radians.

    Reference:
        Svitov and Alyamkin, 2020, arXiv:2003.02586. Where the authors' code takes
        cos(theta + m) as it is, the target goes on falling past pi - m here, see
        `arcface_target`.
    """

    uses_labels = True

    def __init__(
        self,
        centres: np.ndarray | tuple[int, int],
        min_margin: float = 0.35,
        max_margin: float = 0.55,
        scale: float = 64.0,
        student_dim: int | None = None,
        name: str = "margin_distillation",
        **kwargs,
    ):
        check_range("max_margin", max_margin, 0, math.pi / 2, high_open=True)
        check_range("min_margin", min_margin, 0, max_margin)
        super().__init__(centres, scale, student_dim, name, **kwargs)
        self.min_margin = float(min_margin)
        self.max_margin = float(max_margin)

    def compute(self, student, teacher, labels, image_ids, training):
        centres = tf.gather(tf.convert_to_tensor(self.centres), labels)
        cosines = tf.reduce_sum(l2_normalize(teacher) * centres, axis=1)
        margins = margins_of_teacher(cosines, self.min_margin, self.max_margin)
        value = margin_cross_entropy(
            self.cosines(self.project(student, teacher)),
            labels,
            self.scale,
            lambda cosine: arcface_target(cosine, margins),
        )
        monitor = {f"{self.name}/margin": tf.reduce_mean(margins)}
        return {self.name: value}, monitor
