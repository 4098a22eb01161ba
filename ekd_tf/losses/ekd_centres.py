"""EKD on pairs of an image and a class centre of the teacher."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from ekd_tf.checks import check_whole
from ekd_tf.heads.base import sample_classes
from ekd_tf.keras_compat import register
from ekd_tf.losses.base import TermsAndMonitor
from ekd_tf.losses.centres import CentreLoss
from ekd_tf.losses.ekd import EKDLoss
from ekd_tf.mining.miner import ExtraRows
from ekd_tf.mining.miner import PairMiner
from ekd_tf.ops.numerics import num_rows


@register
class EKDCentresLoss(CentreLoss):
    """Compares ranks as `EKDLoss` does, in the teacher's space and with its centres.

    The batch is paired with itself and with the teacher's class centres, which both
    models share. So every image has a positive pair, however few images its identity
    has, all identities are negatives, and no row is of an older student. Terms
    `ekd_centres/positive` and `ekd_centres/negative`.

    Args:
        centres, student_dim: As in `CentreLoss`. Terms are NaN for a label without one.
        temperature, positive_weight, negative_weight, momentum, miner: As in `EKDLoss`.
        sampled: Int >= 0: a step has the centres of the batch's identities and, drawn
            anew, so many others or a few more; 0: all.

    State:
        That of `CentreLoss`, and the thresholds and histograms of `EKDLoss`.

    Reference:
        Ours: EKD (Huang et al., 2022, arXiv:2206.02325) with another gallery.
    """

    default_name = "ekd_centres"
    usual_share = 3.0
    uses_labels = True

    def __init__(
        self,
        centres: np.ndarray | tuple[int, int],
        student_dim: int | None = None,
        temperature: float = 0.1,
        positive_weight: float = 0.02,
        negative_weight: float = 0.01,
        momentum: float = 0.01,
        sampled: int = 10_000,
        miner: PairMiner | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(centres, student_dim=student_dim, **kwargs)
        self.sampled = check_whole("sampled", sampled, 0)
        self.ekd = EKDLoss(
            temperature=temperature,
            positive_weight=positive_weight,
            negative_weight=negative_weight,
            momentum=momentum,
            memory=0,
            miner=miner,
            name=self.name,
        )

    def compute(
        self,
        student: tf.Tensor,
        teacher: tf.Tensor,
        labels: tf.Tensor,
        image_ids: tf.Tensor | None,
        training: bool,
    ) -> TermsAndMonitor:
        student = self.project(student, teacher)
        extra = self._centre_rows(labels)
        terms, monitor = self.ekd.compute(
            student, teacher, labels, image_ids, training, extra
        )
        # An image without a centre would only be left out.
        known = tf.reduce_all((labels >= 0) & (labels < self.num_identities))
        terms = {n: tf.where(known, term, float("nan")) for n, term in terms.items()}
        return terms, monitor

    def _centre_rows(self, labels):
        """Returns the centres of a step as rows of both models."""
        centres = tf.convert_to_tensor(self.centres)
        if not 0 < self.sampled < self.num_identities:
            every = tf.range(self.num_identities)
            return ExtraRows(student=centres, teacher=centres, labels=every)
        # The same on all replicas, and again after a resume.
        seed = tf.stack([0, tf.cast(self.ekd.num_updates, tf.int32)])
        count, most = self.sampled + num_rows(labels), self.num_identities
        count = min(count, most) if isinstance(count, int) else tf.minimum(count, most)
        drawn = sample_classes(labels, most, count, seed)
        rows = tf.gather(centres, drawn)
        return ExtraRows(student=rows, teacher=rows, labels=drawn)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments the layer was made with."""
        names = "temperature", "positive_weight", "negative_weight", "momentum"
        ekd_arguments = {name: getattr(self.ekd, name) for name in names}
        return {**super().get_config(), **ekd_arguments, "miner": vars(self.ekd.miner)}
