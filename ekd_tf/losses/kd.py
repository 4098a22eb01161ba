"""Losses that compare the two models' soft classifications of each image."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range
from ekd_tf.checks import check_weights
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
        head: `MarginHead` over the same identities, built by the first call. Its
            centres classify the student and receive a gradient; it is in neither the
            state nor the config of the loss: one made of the config has none. None: the
            teacher's centres do, behind the projection.
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
        if head is not None and not head.built:
            raise ValueError("`head` must be built: head.build((None, student_dim))")
        if head is None:
            cosines = self.cosines(self.project(student, teacher))
        else:
            centres = l2_normalize(tf.convert_to_tensor(head.centers))
            cosines = tf.matmul(l2_normalize(student), centres, transpose_b=True)
        return self.scale * cosines, self.scale * self.cosines(teacher)

    def compute(self, student: tf.Tensor, teacher: tf.Tensor) -> TermsAndMonitor:
        value = kd_divergence(*self.logits(student, teacher), self.temperature)
        return {self.name: value}, {}


def grouped_divergences(
    student_logits: tf.Tensor,
    teacher_logits: tf.Tensor,
    temperature: float,
    mass: float,
) -> tuple[tf.Tensor, tf.Tensor]:
    r"""Averages the divergences within the primary group and between the two groups.

    $$ P_i = \text{the teacher's most probable identities, which hold } T \text{ of }
        p^t_i = \mathrm{softmax}(z^t_i / \tau) $$
    $$ L_{primary} = \frac{\tau^2}{B} \sum_i \mathrm{KL}\big(p^t_i | P_i \,\|\,
        p^s_i | P_i\big), \quad L_{binary} = \frac{\tau^2}{B} \sum_i
        \mathrm{KL}\big((m^t_i, 1 - m^t_i) \,\|\, (m^s_i, 1 - m^s_i)\big) $$

    with $p | P$ renormalised over the group, which is never empty, m the mass of the
    group, and z logits, float32 `(batch, num_identities)`.
    """
    student = tf.nn.log_softmax(student_logits / temperature)
    teacher = tf.nn.log_softmax(teacher_logits / temperature)
    falling = tf.sort(tf.exp(teacher), axis=1, direction="DESCENDING")
    before = tf.cumsum(falling, axis=1, exclusive=True)
    size = tf.reduce_sum(tf.cast(before < mass, tf.int32), axis=1)
    least = tf.gather(falling, tf.maximum(size, 1) - 1, batch_dims=1)
    primary = tf.exp(teacher) >= least[:, None]

    def split(log_p):
        # Log of the mass of the group, and of the rest.
        low = log_p.dtype.min / 2
        return [
            tf.reduce_logsumexp(tf.where(group, log_p, low), axis=1, keepdims=True)
            for group in (primary, ~primary)
        ]

    in_student, out_student = split(student)
    in_teacher, out_teacher = split(teacher)
    apart = (teacher - in_teacher) - (student - in_student)
    within = tf.where(primary, tf.exp(teacher - in_teacher) * apart, 0.0)
    between = tf.exp(in_teacher) * (in_teacher - in_student)
    # A group of all identities leaves nothing.
    rest = tf.exp(out_teacher) * tf.maximum(out_teacher - out_student, -1e4)
    between += tf.where(tf.exp(out_teacher) > 0, rest, 0.0)
    factor = temperature**2 / tf.cast(tf.shape(student)[0], tf.float32)
    return factor * tf.reduce_sum(within), factor * tf.reduce_sum(between)


@register
class GKDLoss(KDLoss):
    """Compares two models' classifications by `grouped_divergences`.

    Terms `gkd/primary` and `gkd/binary`. Arguments, centres and logits as of `KDLoss`.

    Args:
        mass: Float in (0, 1], T: ours, as are the weights, not the paper's.
        primary_weight, binary_weight: Floats >= 0.

    Reference:
        Zhao et al., 2023, arXiv:2304.04462.
    """

    default_name = "gkd"

    def __init__(
        self,
        centres: np.ndarray | tuple[int, int],
        head: MarginHead | None = None,
        temperature: float | None = None,
        mass: float = 0.9,
        primary_weight: float = 1.0,
        binary_weight: float = 1.0,
        scale: float = 64.0,
        student_dim: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(centres, head, temperature, scale, student_dim, **kwargs)
        self.mass = check_range("mass", mass, 0, 1, low_open=True)
        self.primary_weight, self.binary_weight = check_weights(
            primary_weight=primary_weight, binary_weight=binary_weight
        )

    def compute(self, student: tf.Tensor, teacher: tf.Tensor) -> TermsAndMonitor:
        logits = self.logits(student, teacher)
        primary, binary = grouped_divergences(*logits, self.temperature, self.mass)
        return {
            f"{self.name}/primary": self.primary_weight * primary,
            f"{self.name}/binary": self.binary_weight * binary,
        }, {}
