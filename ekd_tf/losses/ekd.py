"""Evaluation-oriented knowledge distillation: the rank loss on pairs of images."""

from __future__ import annotations

import functools
import math
from typing import Any

import tensorflow as tf

from ekd_tf.checks import check_choice
from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range
from ekd_tf.checks import check_weights
from ekd_tf.keras_compat import register
from ekd_tf.losses.base import MemoryLoss
from ekd_tf.losses.base import TermsAndMonitor
from ekd_tf.metrics import format_fpr
from ekd_tf.mining.miner import ExtraRows
from ekd_tf.mining.miner import PairMiner
from ekd_tf.mining.miner import join
from ekd_tf.mining.miner import traced_when_eager
from ekd_tf.mining.miner import with_gradient
from ekd_tf.mining.order_statistics import HISTOGRAM_BINS
from ekd_tf.mining.order_statistics import positions_of_fprs
from ekd_tf.mining.order_statistics import quantiles_of_histogram
from ekd_tf.ops.numerics import l2_normalize
from ekd_tf.ops.numerics import masked_mean
from ekd_tf.ops.numerics import num_rows
from ekd_tf.ops.numerics import similarity_matrix

# Rows among whose pairs the negatives around a threshold at a high FPR are looked for.
SAMPLED_ROWS = 256


def rank_differences(
    student: tf.Tensor,
    teacher: tf.Tensor,
    student_thresholds: tf.Tensor,
    teacher_thresholds: tf.Tensor,
    temperature: float,
) -> tf.Tensor:
    r"""Returns the squared difference of two models' soft ranks, pair by pair.

    $$ (R_s - R_t)^2, \quad R(s) = \sum_k \sigma\big((s - T_k) / \tau\big) $$

    Each model's cosines `(num_pairs,)` are ranked against its own thresholds
    `(num_fprs,)`, so only which thresholds a pair passes is compared, not the cosines.
    A pair k thresholds off costs k^2. The slope is noticeable within about five
    temperatures of a threshold. Returns float32 `(num_pairs,)`.
    """

    def soft_rank(cosines, thresholds):
        distances = tf.expand_dims(cosines, 1) - thresholds
        return tf.reduce_sum(tf.sigmoid(distances / temperature), axis=1)

    student_rank = soft_rank(student, student_thresholds)
    teacher_rank = soft_rank(teacher, teacher_thresholds)
    return tf.math.squared_difference(student_rank, tf.stop_gradient(teacher_rank))


def attach_thresholds(
    thresholds: tf.Tensor, negatives: tf.Tensor, near: tf.Tensor
) -> tf.Tensor:
    """Lets the gradient of thresholds reach the negatives around them.

    The values stay (a straight-through estimator). The derivative of threshold k is
    that of the mean of the cosines `negatives`, float32 `(n,)`, that `near`, bool
    `(num_fprs, n)`, keeps, as if the batch alone had defined the threshold: a quantile
    moves with the values around it. Without any it is 0.
    """
    means = masked_mean(negatives, near, axis=1)
    return thresholds + (means - tf.stop_gradient(means))


def near_thresholds(wanted: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
    """Returns which negatives define thresholds, bool `(num_fprs, n)`.

    Both arguments are places in the descending order of all negatives, from 0: `wanted`
    p of the thresholds, int32 `(num_fprs,)`, and `positions`, int32 `(n,)`, below 0 for
    a pair that is no negative one. Those from 3/4 p to 5/4 p define a threshold, at
    least two to either side.
    """
    distances = tf.cast(tf.abs(positions - wanted[:, None]), tf.float32)
    near = distances <= tf.maximum(0.25 * tf.cast(wanted, tf.float32), 2.0)[:, None]
    return near & (positions >= 0)


@register
class EKDLoss(MemoryLoss):
    r"""Pulls the student's rank of the pairs that decide TPR to the teacher's.

    $$ L = w_+ \operatorname*{mean}_{\text{positives}} (R_s - R_t)^2
         + w_- \operatorname*{mean}_{\text{hardest negatives}} (R_s - R_t)^2 $$

    with R the soft rank against the model's own thresholds (`rank_differences`), which
    are averaged over steps. A pair on which both models decide alike costs next to
    nothing, so it is the critical pairs among these that are pulled.

    As published (`reference`) thresholds are constants in the gradient: the positive
    term can be met by raising every cosine, and a student that starts from scratch
    chases its thresholds towards 1. The default differs above all in four things: the
    gradient of the student's thresholds reaches the negatives that define them, so
    raising every cosine changes nothing; thresholds are quantiles of a decayed
    histogram of all negatives, so FPRs exist that one small batch cannot resolve; the
    temperature is ten times as wide, since most critical pairs of a student from
    scratch lie beyond the 0.05 where the slope of 0.01 ends; and a memory pairs the
    batch with the 2,048 images before it too, for more positive pairs and harder
    negatives.

    Args:
        student_dim, teacher_dim, memory: As in `MemoryLoss`.
        temperature: Float > 0, in units of cosine.
        positive_weight, negative_weight: Floats >= 0 of the two terms, not both 0.
        thresholds: "histogram" reads them from the decayed histogram; "ema" averages
            each batch's order statistics.
        momentum: Float in (0, 1]: the newest batch's part in "ema" thresholds, and
            what the histogram loses in each step.
        bias_correction: Whether "ema" thresholds start at the first batch's or, as in
            TFace, at 0: 63 % of their value after 100 steps.
        threshold_gradient: Whether thresholds pass their gradient on to the negatives
            that define them (`attach_thresholds`): those mined or, beyond them,
            those of a sample of the batch.
        same_image_pairs: Whether pairs of one source image count as positives.
        miner: Which FPRs, and how many of the hardest negatives; or its arguments.

    Returns:
        `{"ekd/positive": ..., "ekd/negative": ...}`, weighted float32 scalars. A
        batch without positive (negative) pairs has 0 there and a zero gradient.

    State:
        That of `MemoryLoss`; of each model `MODEL_thresholds` `(num_fprs,)` and, unless
        they are "ema", `MODEL_histogram` `(4097,)`; `num_updates`; float32. A batch
        with a row that is not finite changes no state, one without negatives changes
        the memory alone.

    Reference:
        Huang et al., 2022, arXiv:2206.02325, equations 5 to 9. Compared with TFace
        `recognition/tasks/ekd/distillation/ekd.py`, whose gradient grows with the
        number of GPUs: a run on eight corresponds to a weight of 8 here.
    """

    default_name = "ekd"
    uses_labels = True

    def __init__(
        self,
        student_dim: int | None = None,
        teacher_dim: int | None = None,
        temperature: float = 0.1,
        positive_weight: float = 0.02,
        negative_weight: float = 0.01,
        thresholds: str = "histogram",
        momentum: float = 0.01,
        bias_correction: bool = True,
        threshold_gradient: bool = True,
        memory: int = 2048,
        same_image_pairs: bool = False,
        miner: PairMiner | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(memory, student_dim, teacher_dim, **kwargs)
        self.temperature = float(check_positive("temperature", temperature))
        self.positive_weight, self.negative_weight = check_weights(
            positive_weight=positive_weight, negative_weight=negative_weight
        )
        self.thresholds = check_choice("thresholds", thresholds, ("ema", "histogram"))
        self.momentum = float(check_range("momentum", momentum, 0, 1, low_open=True))
        self.bias_correction = bool(bias_correction)
        self.threshold_gradient = bool(threshold_gradient)
        if not bias_correction and thresholds == "histogram":
            raise ValueError(
                '`bias_correction=False` has an effect on `thresholds="ema"` alone. '
                f"Received: thresholds={thresholds!r}"
            )
        self.same_image_pairs = bool(same_image_pairs)
        self.miner = miner if isinstance(miner, PairMiner) else PairMiner(**miner or {})

        count = len(self.miner.fprs)
        self.student_thresholds = self.add_state("student_thresholds", (count,))
        self.teacher_thresholds = self.add_state("teacher_thresholds", (count,))
        self.num_updates = self.add_state("num_updates", ())
        if self.thresholds == "histogram":
            bins = (HISTOGRAM_BINS,)
            self.student_histogram = self.add_state("student_histogram", bins)
            self.teacher_histogram = self.add_state("teacher_histogram", bins)
        self._add_memory()

    @classmethod
    def reference(cls) -> EKDLoss:
        """Returns the published form: the arithmetic of TFace to float32 rounding."""
        return cls(
            temperature=0.01,
            thresholds="ema",
            bias_correction=False,
            threshold_gradient=False,
            memory=0,
            same_image_pairs=True,
            name="ekd_reference",
        )

    def compute(
        self,
        student: tf.Tensor,
        teacher: tf.Tensor,
        labels: tf.Tensor,
        image_ids: tf.Tensor | None,
        training: bool,
        extra: ExtraRows | None = None,
    ) -> TermsAndMonitor:
        """Returns the two weighted terms and what to watch beside them.

        Per FPR f: `threshold/MODEL/fpr_f`, `batch_tpr/MODEL/fpr_f` and
        `critical/{positive,negative}/fpr_f`, the pairs on different sides. `extra` rows
        are for a layer without a memory of its own.
        """
        if self.same_image_pairs:
            image_ids = None
        if self.memory:
            extra = self._remembered(student, teacher, image_ids)
        is_ema = self.thresholds == "ema"
        # Stopped before the miner, whose gradient would be built otherwise.
        frozen = tf.stop_gradient(student)
        pairs = self.miner(frozen, teacher, labels, image_ids, extra, is_ema)
        # Before they are used: a batch counts in its own thresholds.
        if training:
            counts = pairs.finite & (pairs.total_negatives > 0)
            self._update_thresholds(pairs, counts)
            if self.memory:
                rows = num_rows(labels)
                new = [side.gallery[:rows] for side in (pairs.student, pairs.teacher)]
                self._remember(new[0], new[1], labels, image_ids, pairs.finite)
        # Tensors, since a nested function cannot take variables of several replicas.
        thresholds = self.student_thresholds, self.teacher_thresholds
        tensors = map(tf.convert_to_tensor, thresholds)
        return self._terms(student, labels, pairs, *tensors)

    # Each batch has another number of pairs.
    @functools.partial(traced_when_eager, reduce_retracing=True)
    def _terms(self, student, labels, pairs, student_thresholds, teacher_thresholds):
        student = l2_normalize(student)
        # The positives, and the negatives behind them, hardest first.
        listed = join([pairs.positive, pairs.negative])
        numbers = tf.range(tf.size(listed.student))
        # XLA of TensorFlow 2.15 cannot see otherwise that all are of one length.
        listed = listed._make(tf.gather(x, numbers) for x in listed)
        positions = numbers - tf.shape(pairs.positive.rows)[0]
        positive = positions < 0
        cosines = with_gradient(student, pairs.student.gallery, listed)
        attached = student_thresholds
        if self.threshold_gradient:
            wanted = positions_of_fprs(pairs.total_negatives, self.miner.fprs)
            near = near_thresholds(wanted, positions)
            attached = tf.where(
                wanted <= tf.reduce_max(positions),
                attach_thresholds(student_thresholds, cosines, near),
                self._attach_to_sample(student_thresholds, student, labels),
            )
        losses = rank_differences(
            cosines, listed.teacher, attached, teacher_thresholds, self.temperature
        )
        positive_mean = masked_mean(losses, positive)
        negative_mean = masked_mean(losses, ~positive)
        terms = {
            f"{self.name}/positive": self.positive_weight * positive_mean,
            f"{self.name}/negative": self.negative_weight * negative_mean,
        }
        thresholds = student_thresholds, teacher_thresholds
        monitor = self._monitor(listed, positive, pairs.total_negatives, thresholds)
        # Without the stop the backward pass visits all this too.
        return terms, {name: tf.stop_gradient(x) for name, x in monitor.items()}

    def _monitor(self, listed, positive, total_negatives, thresholds):
        """Returns what to watch: thresholds, TPR and the pairs on different sides."""

        def count(passed, kind):
            mask = tf.transpose(passed) & kind
            return tf.math.count_nonzero(mask, axis=-1, dtype=tf.float32)

        student_thresholds, teacher_thresholds = thresholds
        by_student = tf.expand_dims(listed.student, 1) > student_thresholds
        by_teacher = tf.expand_dims(listed.teacher, 1) > teacher_thresholds
        critical = by_student != by_teacher
        any_critical = tf.reduce_any(critical, axis=1)
        num_positive = tf.math.count_nonzero(positive, dtype=tf.float32)
        rate = tf.math.divide_no_nan
        monitor = {
            "critical/positive": count(any_critical, positive),
            "critical/negative": count(any_critical, ~positive),
            "pairs/positive": num_positive,
            "pairs/negative": tf.cast(total_negatives, tf.float32),
        }
        columns = {
            "threshold/student": student_thresholds,
            "threshold/teacher": teacher_thresholds,
            "batch_tpr/student": rate(count(by_student, positive), num_positive),
            "batch_tpr/teacher": rate(count(by_teacher, positive), num_positive),
            "critical/positive": count(critical, positive),
            "critical/negative": count(critical, ~positive),
        }
        for column, values in columns.items():
            for fpr, value in zip(self.miner.fprs, tf.unstack(values)):
                monitor[f"{column}/fpr_{format_fpr(fpr)}"] = value
        return monitor

    def _attach_to_sample(self, student_thresholds, student, labels):
        """Attaches thresholds to the negatives of a sample that are close to them.

        Above a threshold at a high FPR lie more negatives than are mined. The sample
        is of the batch alone: with a gallery's rows too it was no better
        (tools/candidates.md).
        """
        student, labels = student[:SAMPLED_ROWS], labels[:SAMPLED_ROWS]
        cosines = tf.reshape(similarity_matrix(student), [-1])
        negative = tf.reshape(labels[:, None] != labels[None, :], [-1])
        near = tf.abs(cosines - student_thresholds[:, None]) <= self.temperature / 2
        return attach_thresholds(student_thresholds, cosines, near & negative)

    def _update_thresholds(self, pairs, counts):
        """Moves the thresholds towards this batch's if the bool tensor `counts`."""
        seen = tf.cast(counts, tf.float32)
        updates = self.num_updates + seen
        self.num_updates.assign(updates)
        for side, mined in (("student", pairs.student), ("teacher", pairs.teacher)):
            variable = getattr(self, f"{side}_thresholds")
            if self.thresholds == "ema":
                # Without negatives the batch's thresholds are undefined.
                batch = tf.where(counts, mined.thresholds, variable)
                part = self._part_of_newest(tf.maximum(updates, 1.0))
                variable.assign(variable + part * (batch - variable))
                continue
            histogram = getattr(self, f"{side}_histogram")
            batch = tf.cast(mined.histogram, tf.float32)
            decayed = histogram + seen * (batch - self.momentum * histogram)
            histogram.assign(decayed)
            quantiles = quantiles_of_histogram(decayed, self.miner.fprs)
            variable.assign(tf.where(updates > 0, quantiles, variable))

    def _part_of_newest(self, updates):
        """Returns the newest batch's part in an average over so many."""
        if not self.bias_correction:
            return self.momentum
        # Equals the average divided by 1 - (1 - momentum)^n.
        decay = math.log1p(-self.momentum) if self.momentum < 1 else -math.inf
        return -self.momentum / tf.math.expm1(updates * decay)

    def get_config(self) -> dict:
        """Returns the arguments the layer was made with."""
        return {**super().get_config(), "miner": vars(self.miner)}
