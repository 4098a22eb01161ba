"""AdaDistill: class centres that follow the teacher as the student learns."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from ekd_tf.checks import check_angle
from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range
from ekd_tf.keras_compat import register
from ekd_tf.losses.base import TermsAndMonitor
from ekd_tf.losses.centres import margin_cross_entropy
from ekd_tf.losses.direct import ProjectedLoss
from ekd_tf.ops.numerics import l2_normalize


def moved_centres(
    centres: tf.Tensor,
    labels: tf.Tensor,
    teacher: tf.Tensor,
    kept: tf.Tensor,
    usable: tf.Tensor,
) -> tf.Tensor:
    r"""Moves the centres of a batch's identities towards the teacher's embeddings.

    $$ c_y \leftarrow \frac{1}{n_y} \sum_{i: y_i = y} \big(a_i c_y + (1 - a_i)
        \hat t_i\big) $$

    the mean of what each image of the identity asks for, of the `usable` ones, bool
    `(batch,)`. Centres are float32 `(num_identities, dim)`, the teacher's rows of unit
    length, and a is `kept`, float32 `(batch,)`.
    """
    current = tf.gather(centres, labels)
    wanted = (1.0 - kept)[:, None] * (teacher - current)
    wanted = tf.where(usable[:, None], wanted, 0.0)
    same = labels[:, None] == labels[None, :]
    counted = tf.cast(same & usable[None, :], tf.float32)
    counts = tf.reduce_sum(counted, axis=1, keepdims=True)
    moved = current + tf.math.divide_no_nan(tf.matmul(counted, wanted), counts)
    # Rows of one identity write the same numbers, those of its first row.
    first = tf.argmax(same, axis=1, output_type=tf.int32)
    return tf.tensor_scatter_nd_update(
        centres, labels[:, None], tf.gather(moved, first)
    )


@register
class AdaDistillLoss(ProjectedLoss):
    r"""ArcFace against class centres that the teacher's embeddings move.

    `moved_centres` with, of each image,

    $$ a = \mathrm{clip}\big(\hat s \cdot \hat t \;
        \mathrm{clip}(\hat c \cdot \hat t, 10^{-6}, 1), 10^{-6}, 1\big) $$

    Early, when student and teacher disagree, a centre is little more than the
    teacher's last embedding of the identity; as they agree it becomes an average over
    many. Centres are updated before they are used. To watch: `ada_distill/keep`, the
    batch's mean of a. The margin is in [0, pi/2) radians, `student_dim` as in
    `ProjectedLoss`.

    State:
        centres: float32 `(num_identities, teacher_dim)`, not trainable, zero until an
        identity is seen; saved with the run. A row whose embedding of either model is
        not finite does not count. Besides as in `ProjectedLoss`.

    Reference:
        Boutros et al., 2024, arXiv:2407.01332, AdaArcDistill, with m = 0.45. In the
        authors' code `utils/losses.py` the last image of an identity in the batch
        overwrites the others, each GPU keeps centres of its own, they start from
        noise, and the target is not kept from rising past pi - m.
    """

    default_name = "ada_distill"
    uses_labels = True

    def __init__(
        self,
        num_identities: int,
        teacher_dim: int,
        student_dim: int | None = None,
        margin: float = 0.45,
        scale: float = 64.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(student_dim, teacher_dim, **kwargs)
        self.num_identities = int(check_range("num_identities", num_identities, 2))
        self.margin = check_angle("margin", margin)
        self.scale = check_positive("scale", scale)
        self.centres = self.add_state("centres", (self.num_identities, teacher_dim))

    def compute(
        self,
        student: tf.Tensor,
        teacher: tf.Tensor,
        labels: tf.Tensor,
        training: bool,
    ) -> TermsAndMonitor:
        projected = l2_normalize(self.project(student, teacher))
        teacher = l2_normalize(teacher)
        centres = tf.convert_to_tensor(self.centres)
        own = l2_normalize(tf.gather(centres, labels))
        closeness = tf.reduce_sum(own * teacher, axis=1)
        kept = tf.reduce_sum(tf.stop_gradient(projected) * teacher, axis=1)
        kept *= tf.clip_by_value(closeness, 1e-6, 1.0)
        kept = tf.clip_by_value(kept, 1e-6, 1.0)
        if training:
            rows = tf.reduce_sum(projected, axis=1) + tf.reduce_sum(teacher, axis=1)
            centres = moved_centres(
                centres, labels, teacher, kept, tf.math.is_finite(rows)
            )
            self.centres.assign(centres)
        cosines = tf.matmul(projected, l2_normalize(centres), transpose_b=True)
        value = margin_cross_entropy(cosines, labels, self.scale, self.margin)
        return {self.name: value}, {f"{self.name}/keep": tf.reduce_mean(kept)}
