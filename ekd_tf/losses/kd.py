"""Hinton's distillation: the teacher's soft classification of each image."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from ekd_tf.checks import check_positive
from ekd_tf.heads import MarginHead
from ekd_tf.keras_compat import register
from ekd_tf.losses.base import TermsAndMonitor
from ekd_tf.losses.centres import CentreLoss
from ekd_tf.ops.numerics import l2_normalize


def kd_divergence(
    student_logits: tf.Tensor, teacher_logits: tf.Tensor, temperature: float = 4.0
) -> tf.Tensor:
    r"""Averages the divergence of two softmaxes over identities.

    $$ L = \frac{T^2}{B} \sum_i \mathrm{KL}\big(\mathrm{softmax}(z^t_i / T) \,\|\,
        \mathrm{softmax}(z^s_i / T)\big) $$

    with logits z, float32 `(batch, num_identities)`.

    Reference:
        Hinton et al., 2015, arXiv:1503.02531. TFace
        `recognition/tasks/ekd/distillation/simple_kd.py`, equal to rounding.
    """
    student = tf.nn.log_softmax(student_logits / temperature)
    teacher = tf.nn.log_softmax(teacher_logits / temperature)
    divergence = tf.reduce_sum(tf.exp(teacher) * (teacher - student), axis=1)
    return temperature**2 * tf.reduce_mean(divergence)


@register
class KDLoss(CentreLoss):
    """Compares two models' classifications of an image: the term is `kd_divergence`.

    Logits are scaled cosines, which the paper's are not, hence the scale: the teacher's
    to its class centres, the student's to those of its margin head.

    Args:
        head: Built `MarginHead` over the same identities, whose centres classify the
            student and receive a gradient; it is in neither the state nor the config of
            the loss. None: the teacher's centres do, behind the projection.
        temperature: Float > 0 in units of the logits. Default: a sixteenth of the
            scale, which is the usual 4 at a scale of 64.
        centres, scale, student_dim: As in `CentreLoss`, and so is the state; the last
            counts only without `head`.
    """

    default_name = "kd"

    def __init__(
        self,
        centres: np.ndarray | tuple[int, int],
        head: MarginHead | None = None,
        temperature: float | None = None,
        scale: float = 64.0,
        student_dim: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(centres, scale, None if head else student_dim, **kwargs)
        if temperature is None:
            temperature = self.scale / 16
        self.temperature = check_positive("temperature", temperature)
        if head is not None and head.num_identities != self.num_identities:
            raise ValueError(
                "`head` and `centres` must have the same identities. Received: "
                f"{head.num_identities} and {self.num_identities}"
            )
        # A function hides the head from Keras, which would list its centres twice.
        self._head = lambda: head

    def logits(
        self, student: tf.Tensor, teacher: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns both models' scaled cosines, float32 `(batch, num_identities)`."""
        head = self._head()
        if head is None:
            cosines = self.cosines(self.project(student, teacher))
        else:
            centres = l2_normalize(tf.convert_to_tensor(head.centers))
            cosines = tf.matmul(l2_normalize(student), centres, transpose_b=True)
        return self.scale * cosines, self.scale * self.cosines(teacher)

    def compute(self, student: tf.Tensor, teacher: tf.Tensor) -> TermsAndMonitor:
        value = kd_divergence(*self.logits(student, teacher), self.temperature)
        return {self.name: value}, {}
