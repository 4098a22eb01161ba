"""Losses that classify the student by class centres of the teacher."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from ekd_tf.checks import check_angle
from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range
from ekd_tf.checks import check_weights
from ekd_tf.checks import check_whole
from ekd_tf.heads import arcface_target
from ekd_tf.heads import margin_softmax_loss
from ekd_tf.heads import replace_targets
from ekd_tf.keras_compat import register
from ekd_tf.losses.base import TermsAndMonitor
from ekd_tf.losses.direct import ProjectedLoss
from ekd_tf.losses.direct import cosine_distance
from ekd_tf.ops.numerics import l2_normalize


class CentreLoss(ProjectedLoss):
    """Base of the losses that hold one frozen teacher embedding per identity.

    Args:
        centres: Float array `(num_identities, teacher_dim)`: the teacher's classifier,
            or its mean embedding of each identity; normalised here. Or these two sizes:
            centres, and with them the loss, are NaN until saved ones are restored.
        scale: Float > 0 of the logits.
        student_dim: As in `ProjectedLoss`.

    State:
        centres: float32 `(num_identities, teacher_dim)`, rows of unit length, not
        trainable, saved with the run. Besides as in `ProjectedLoss`.
    """

    def __init__(
        self,
        centres: np.ndarray | tuple[int, int],
        scale: float = 64.0,
        student_dim: int | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(centres, (tuple, list)) and np.shape(centres) == (2,):
            sizes, unit = tuple(centres), None
        else:
            rows = np.asarray(centres, np.float32)
            check_centres(rows)
            unit = l2_normalize(rows)
            sizes = tuple(unit.shape)
        super().__init__(student_dim, sizes[1], **kwargs)
        self.scale = check_positive("scale", scale)
        self.num_identities = int(sizes[0])
        self.centres = self.add_state("centres", sizes, initializer=float("nan"))
        if unit is not None:
            self.centres.assign(unit)

    def cosines(self, embeddings: tf.Tensor) -> tf.Tensor:
        """Returns the cosines to all centres, float32 `(batch, num_identities)`."""
        centres = tf.convert_to_tensor(self.centres)
        return tf.matmul(l2_normalize(embeddings), centres, transpose_b=True)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments, of the centres the sizes: themselves are state."""
        sizes = self.num_identities, self.teacher_dim
        return {**super().get_config(), "centres": sizes}


def check_centres(centres: np.ndarray) -> None:
    """Raises `ValueError` unless the rows of an array can be class centres."""
    if centres.ndim != 2 or len(centres) < 2:
        raise ValueError(
            "`centres` must be (num_identities, teacher_dim), of two identities or "
            f"more. Received: shape={centres.shape}"
        )
    bad = np.flatnonzero(~np.isfinite(centres).all(axis=1))
    if bad.size:
        raise ValueError(
            f"`centres` must be finite. Received: {bad.size} rows that are not, "
            f"the first is {bad[0]}"
        )


def margin_cross_entropy(
    cosines: tf.Tensor,
    labels: tf.Tensor,
    scale: float,
    margin: float | tf.Tensor | None = None,
) -> tf.Tensor:
    """Averages the cross entropy of scaled cosines `(batch, num_identities)`.

    Those at the labels may have a margin, see `arcface_target`.
    """

    def target_cosine(own):
        return own if margin is None else arcface_target(own, margin)

    logits = scale * replace_targets(cosines, labels, target_cosine)
    return tf.reduce_mean(margin_softmax_loss(logits, labels))


@register
class ProxylessKDLoss(CentreLoss):
    """Trains the student by ArcFace against the teacher's frozen class centres.

    All the teacher gives is the centres. The margin is in [0, pi/2) radians; other
    arguments and the state as in `CentreLoss`.

    Reference:
        Shi et al., 2020, arXiv:2011.00265, which inherits the teacher's classifier;
        ArcDistill of Boutros et al., 2024, arXiv:2407.01332, is the same with ArcFace.
    """

    default_name = "proxyless_kd"
    usual_share = 3.0
    uses_labels = True

    def __init__(
        self,
        centres: np.ndarray | tuple[int, int],
        margin: float = 0.5,
        scale: float = 64.0,
        student_dim: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(centres, scale, student_dim, **kwargs)
        self.margin = check_angle("margin", margin)

    def compute(
        self, student: tf.Tensor, teacher: tf.Tensor, labels: tf.Tensor
    ) -> TermsAndMonitor:
        cosines = self.cosines(self.project(student, teacher))
        value = margin_cross_entropy(cosines, labels, self.scale, self.margin)
        return {self.name: value}, {}


@register
class MarginDistillationLoss(CentreLoss):
    r"""Classifies by the teacher's centres, with a wider margin where it is sure.

    ArcFace against the teacher's frozen class centres; each image has a margin of

    $$ m_i = m_{min} + (m_{max} - m_{min}) \frac{\max(0, c_i)}{\max_j c_j} $$

    with c the cosines of the teacher's embeddings to their class centres, `min_margin`
    where none is positive. To watch: `margin_distillation/margin`, the batch's mean.
    Both margins are in [0, pi/2) radians; other arguments and the state as in
    `CentreLoss`.

    Reference:
        Svitov and Alyamkin, 2020, arXiv:2003.02586. Where the authors' code takes
        cos(theta + m) as it is, the target goes on falling past pi - m here, see
        `arcface_target`.
    """

    default_name = "margin_distillation"
    usual_share = 3.0
    uses_labels = True

    def __init__(
        self,
        centres: np.ndarray | tuple[int, int],
        min_margin: float = 0.35,
        max_margin: float = 0.55,
        scale: float = 64.0,
        student_dim: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(centres, scale, student_dim, **kwargs)
        self.max_margin = check_angle("max_margin", max_margin)
        self.min_margin = check_range("min_margin", min_margin, 0, max_margin)

    def compute(
        self, student: tf.Tensor, teacher: tf.Tensor, labels: tf.Tensor
    ) -> TermsAndMonitor:
        centres = tf.gather(tf.convert_to_tensor(self.centres), labels)
        teacher_cosines = tf.reduce_sum(l2_normalize(teacher) * centres, axis=1)
        teacher_cosines = tf.maximum(teacher_cosines, 0.0)
        sureness = tf.math.divide_no_nan(
            teacher_cosines, tf.reduce_max(teacher_cosines)
        )
        margins = self.min_margin + (self.max_margin - self.min_margin) * sureness
        cosines = self.cosines(self.project(student, teacher))
        value = margin_cross_entropy(cosines, labels, self.scale, margins)
        return {self.name: value}, {f"{self.name}/margin": tf.reduce_mean(margins)}


@register
class ShrinkTeaNetLoss(CentreLoss):
    r"""Pulls the student's direction to the teacher's, and to its class centre.

    $$ L = \frac{w_a}{B} \sum_i (1 - \hat s_i \cdot \hat t_i) - \frac{w_c}{B} \sum_i
        \log \mathrm{softmax}_{y_i}(\gamma \hat s_i \cdot \hat c) $$

    with $\hat c$ the frozen class centres of the teacher and $\gamma$ the scale: the
    terms `shrinkteanet/angular` and `shrinkteanet/classifier`. Arguments besides the
    weights, and the state, as in `CentreLoss`.

    Reference:
        Duong et al., 2019, arXiv:1905.10620, on the embedding alone; the paper
        distils intermediate features too.
    """

    default_name = "shrinkteanet"
    usual_share = 10.0
    uses_labels = True

    def __init__(
        self,
        centres: np.ndarray | tuple[int, int],
        angular_weight: float = 1.0,
        classifier_weight: float = 1.0,
        scale: float = 64.0,
        student_dim: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(centres, scale, student_dim, **kwargs)
        self.angular_weight, self.classifier_weight = check_weights(
            angular_weight=angular_weight, classifier_weight=classifier_weight
        )

    def compute(
        self, student: tf.Tensor, teacher: tf.Tensor, labels: tf.Tensor
    ) -> TermsAndMonitor:
        projected = self.project(student, teacher)
        angular = cosine_distance(projected, teacher)
        cosines = self.cosines(projected)
        classified = margin_cross_entropy(cosines, labels, self.scale)
        return {
            f"{self.name}/angular": self.angular_weight * angular,
            f"{self.name}/classifier": self.classifier_weight * classified,
        }, {}


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
    usual_share = 10.0
    uses_labels = True

    def __init__(
        self,
        num_identities: int,
        *,
        teacher_dim: int,
        student_dim: int | None = None,
        margin: float = 0.45,
        scale: float = 64.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(student_dim, teacher_dim, **kwargs)
        self.num_identities = check_whole("num_identities", num_identities, 2)
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
