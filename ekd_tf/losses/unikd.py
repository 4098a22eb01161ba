"""UniKD: each image against its own teacher row, and pairs of images by cosine."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from ekd_tf.checks import check_range
from ekd_tf.keras_compat import register
from ekd_tf.losses.base import MemoryLoss
from ekd_tf.losses.base import TermsAndMonitor
from ekd_tf.losses.direct import ProjectedLoss
from ekd_tf.mining.miner import PairMiner
from ekd_tf.mining.miner import with_gradient
from ekd_tf.ops.numerics import l2_normalize


@register
class UniKDLoss(MemoryLoss):
    r"""Compares each image's two embeddings, and the two cosines of pairs.

    $$ L = \frac{1}{B} \sum_i (1 - \hat s_i \cdot \hat t_i)^2
         + w \Big(\operatorname*{mean}_{\text{positives}} (c_s - c_t)^2
         + \operatorname*{mean}_{\text{hardest negatives}} (c_s - c_t)^2\Big) $$

    The square makes an image count the more the farther it is from its teacher row. The
    pairs are those of `EKDLoss`, which compares their ranks instead. Terms
    `unikd/instance` and `unikd/relation`.

    Args:
        student_dim, teacher_dim, memory: As in `MemoryLoss`; where the sizes differ the
            first term projects the student as `ProjectedLoss` does.
        relation_weight: Float >= 0, w.
        num_negatives: As in `PairMiner`.

    State:
        That of `MemoryLoss` and `ProjectedLoss`.

    Reference:
        After the abstract of Mishra and Uikey, 2025, arXiv:2508.11376: alignment with
        dynamic hard mining, and pairwise similarities with a memory bank and mining.
        The formulas, which it does not give, and all constants are ours.
    """

    default_name = "unikd"
    usual_share = 5.0
    uses_labels = True

    def __init__(
        self,
        student_dim: int | None = None,
        teacher_dim: int | None = None,
        memory: int = 2048,
        relation_weight: float = 0.3,
        num_negatives: int = 2000,
        **kwargs: Any,
    ) -> None:
        super().__init__(memory, student_dim, teacher_dim, **kwargs)
        self.relation_weight = float(check_range("relation_weight", relation_weight, 0))
        self.miner = PairMiner(num_negatives=num_negatives)
        self.num_negatives = self.miner.num_negatives
        self.space = ProjectedLoss(student_dim, teacher_dim)
        self._add_memory()

    def compute(
        self,
        student: tf.Tensor,
        teacher: tf.Tensor,
        labels: tf.Tensor,
        image_ids: tf.Tensor | None,
        training: bool,
    ) -> TermsAndMonitor:
        units = l2_normalize(student), l2_normalize(teacher)
        placed = l2_normalize(self.space.project(student, teacher))
        distances = 1.0 - tf.reduce_sum(placed * units[1], axis=1)
        extra = None
        if self.memory:
            extra = self._remembered(student, teacher, image_ids)
        frozen = tf.stop_gradient(student)
        pairs = self.miner(frozen, teacher, labels, image_ids, extra, False)

        def mean_square(listed):
            cosines = with_gradient(units[0], pairs.student.gallery, listed)
            total = tf.reduce_sum(tf.math.squared_difference(cosines, listed.teacher))
            return tf.math.divide_no_nan(total, tf.cast(tf.size(cosines), tf.float32))

        relation = mean_square(pairs.positive) + mean_square(pairs.negative)
        if training and self.memory:
            self._remember(*units, labels, image_ids, pairs.finite)
        return {
            f"{self.name}/instance": tf.reduce_mean(tf.square(distances)),
            f"{self.name}/relation": self.relation_weight * relation,
        }, {}
