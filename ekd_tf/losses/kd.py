"""Hinton's distillation: the teacher's soft classification of each image."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from ekd_tf.checks import check_positive
from ekd_tf.heads import MarginHead
from ekd_tf.keras_compat import register
from ekd_tf.losses.centres import CentreLoss
from ekd_tf.ops.numerics import l2_normalize


def kd_divergence(
    student_logits: tf.Tensor, teacher_logits: tf.Tensor, temperature: float = 4.0
) -> tf.Tensor:
    r"""Averages the divergence of two softmaxes over identities.

    $$ L = \frac{T^2}{B} \sum_i \mathrm{KL}\big(\mathrm{softmax}(z^t_i / T) \,\|\,
        \mathrm{softmax}(z^s_i / T)\big) $$

    Args:
        student_logits: Float32 tensor `(batch, num_identities)`.
        teacher_logits: Float32 tensor `(batch, num_identities)`.
        temperature: Float > 0 in units of the logits.

    Returns:
        Float32 scalar >= 0 up to rounding.

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

    Logits are scaled cosines: the teacher's to its class centres, the student's to
    those of its margin head.

    Args:
        head: Built `MarginHead` over the same identities, whose centres are the
            student's classifier and receive a gradient. It stays the trainer's: it is
            in neither the state nor the config of the loss. None: the student is
            classified by the teacher's centres, through the projection where the
            sizes differ.
        temperature: Float > 0 in units of the logits.
        Others as in `CentreLoss`, and so is the state; `student_dim` counts only
            without `head`.

    Raises:
        ValueError: As in `CentreLoss`; a head over another number of identities.

    Reference:
        Hinton et al., 2015, arXiv:1503.02531, T = 4. The paper's logits are unbounded;
        cosines are not, hence the scale.
    """

    def __init__(
        self,
        centres: np.ndarray | tuple[int, int],
        head: MarginHead | None = None,
        temperature: float = 4.0,
        scale: float = 64.0,
        student_dim: int | None = None,
        name: str = "kd",
        **kwargs,
    ):
        check_positive("temperature", temperature)
        if head is not None:
            student_dim = None
        super().__init__(centres, scale, student_dim, name, **kwargs)
        self.temperature = float(temperature)
        self._student_cosines = None
        if head is not None:
            if head.num_identities != self.num_identities:
                raise ValueError(
                    "`head` and `centres` must have the same identities. Received: "
                    f"{head.num_identities} and {self.num_identities}"
                )
            # A function hides the head from Keras, which would list its centres twice.
            self._student_cosines = lambda embeddings: tf.matmul(
                l2_normalize(embeddings),
                l2_normalize(tf.convert_to_tensor(head.centers)),
                transpose_b=True,
            )

    def compute(self, student, teacher, labels, image_ids, training):
        if self._student_cosines is None:
            cosines = self.cosines(self.project(student, teacher))
        else:
            cosines = self._student_cosines(student)
        value = kd_divergence(
            self.scale * cosines, self.scale * self.cosines(teacher), self.temperature
        )
        return {self.name: value}, {}
