"""Grouped distillation: the identities a teacher thinks of, without the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from ekd_tf.checks import check_range
from ekd_tf.heads import MarginHead
from ekd_tf.keras_compat import register
from ekd_tf.losses.base import TermsAndMonitor
from ekd_tf.losses.kd import KDLoss


def grouped_divergences(
    student_logits: tf.Tensor,
    teacher_logits: tf.Tensor,
    temperature: float = 4.0,
    mass: float = 0.9,
) -> tuple[tf.Tensor, tf.Tensor]:
    r"""Averages the divergences within the primary group and between the two groups.

    $$ P_i = \text{the teacher's most probable identities, which hold } T \text{ of }
        p^t_i = \mathrm{softmax}(z^t_i / \tau) $$
    $$ L_{primary} = \frac{\tau^2}{B} \sum_i \mathrm{KL}\big(p^t_i | P_i \,\|\,
        p^s_i | P_i\big), \quad L_{binary} = \frac{\tau^2}{B} \sum_i
        \mathrm{KL}\big((m^t_i, 1 - m^t_i) \,\|\, (m^s_i, 1 - m^s_i)\big) $$

    with $p | P$ renormalised over the group and m the mass of the group.

    Args:
        student_logits, teacher_logits: z, float32 `(batch, num_identities)`.
        temperature: tau.
        mass: T in (0, 1]. The group is never empty.
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
        mass: Float in (0, 1], T: ours, as are the weights; the paper's text with its
            constants was not at hand.
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
        self.primary_weight = check_range("primary_weight", primary_weight, 0)
        self.binary_weight = check_range("binary_weight", binary_weight, 0)

    def compute(self, student: tf.Tensor, teacher: tf.Tensor) -> TermsAndMonitor:
        logits = self.logits(student, teacher)
        primary, binary = grouped_divergences(*logits, self.temperature, self.mass)
        return {
            f"{self.name}/primary": self.primary_weight * primary,
            f"{self.name}/binary": self.binary_weight * binary,
        }, {}
