"""Evaluation-oriented knowledge distillation: the rank loss on critical pairs."""

from __future__ import annotations

import inspect

import keras
import tensorflow as tf

from ekd_tf.checks import check_choice
from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range
from ekd_tf.keras_compat import register
from ekd_tf.losses.base import DistillationLoss
from ekd_tf.metrics import format_fpr
from ekd_tf.mining.miner import Memory
from ekd_tf.mining.miner import PairMiner
from ekd_tf.mining.pairs import NO_ROW
from ekd_tf.mining.pairs import pair_similarity
from ekd_tf.mining.pairs import sum_over_positives
from ekd_tf.ops.compiled import compiled
from ekd_tf.ops.numerics import l2_normalize
from ekd_tf.ops.numerics import masked_mean
from ekd_tf.ops.numerics import num_rows
from ekd_tf.ops.numerics import similarity_matrix
from ekd_tf.ops.ranking import HISTOGRAM_BINS
from ekd_tf.ops.ranking import above
from ekd_tf.ops.ranking import attach_thresholds
from ekd_tf.ops.ranking import attach_thresholds_to_sample
from ekd_tf.ops.ranking import quantiles_of_histogram
from ekd_tf.ops.ranking import ranks_of_fprs
from ekd_tf.ops.ranking import soft_rank

THRESHOLDS = ("ema", "histogram")
# Rows among whose pairs the negatives around a threshold at a high FPR are looked for.
SAMPLED_ROWS = 256


def rank_differences(
    student_similarities: tf.Tensor,
    teacher_similarities: tf.Tensor,
    student_thresholds: tf.Tensor,
    teacher_thresholds: tf.Tensor,
    temperature: float,
) -> tf.Tensor:
    r"""Returns the squared difference of two models' soft ranks, pair by pair.

    $$ (R_s - R_t)^2, \quad R(s) = \sum_k \sigma\big((s - T_k) / \tau\big) $$

    Each model is ranked against its own thresholds, so only which thresholds a pair
    passes is compared, not the cosines. A pair k thresholds off costs k^2.

    Args:
        student_similarities, teacher_similarities: Float32 `(num_pairs,)`, cosines.
        student_thresholds, teacher_thresholds: Float32 `(num_fprs,)`, cosines.
        temperature: Float > 0 in units of cosine.

    Returns:
        Float32 tensor `(num_pairs,)` in [0, num_fprs^2].
    """
    student_rank = soft_rank(student_similarities, student_thresholds, temperature)
    teacher_rank = soft_rank(teacher_similarities, teacher_thresholds, temperature)
    return tf.math.squared_difference(student_rank, tf.stop_gradient(teacher_rank))


@register
class EKDLoss(DistillationLoss):
    r"""Pulls the student's rank of the pairs that decide TPR to the teacher's.

    $$ L = w_+ \operatorname*{mean}_{\text{positives}} (R_s - R_t)^2
         + w_- \operatorname*{mean}_{\text{hardest negatives}} (R_s - R_t)^2 $$

    with R the soft rank against the model's own thresholds at the FPRs (see
    `rank_differences`). The thresholds are averaged over steps and updated before they
    are used. Gradients reach the student through the mined pairs only.

    As published (`reference`) the thresholds are constants in the gradient. Then the
    positive term can be met by raising every cosine, and a student that starts from
    scratch chases its thresholds towards 1. The default differs in four things:

    - The gradient of the student's thresholds reaches the negatives that define them:
      raising every cosine changes nothing.
    - Thresholds are quantiles of a decayed histogram of all negatives, so that FPRs
      exist that one small batch cannot resolve.
    - The temperature is ten times as wide: with 0.01 the slope ends about 0.05 from
      a threshold, and most critical pairs of a student from scratch are further away.
    - A memory: the batch is paired with the 2,048 images before it too, which have
      more positive pairs and harder negatives than a batch has.

    Args:
        student_dim, teacher_dim: Ints, sizes of the embeddings, which `memory` needs.
        temperature: Float > 0, in units of cosine. The slope is noticeable within
            about five temperatures of a threshold.
        positive_weight, negative_weight: Floats >= 0 of the two terms.
        thresholds: "histogram" keeps an exponentially decayed histogram of negative
            cosines and reads the thresholds from it; "ema" averages each batch's
            order statistics.
        momentum: Float in (0, 1]: the share of the newest batch in the thresholds.
        bias_correction: Bool: whether "ema" thresholds start at the first batch's
            (True) or at 0 (False, as in TFace: 63 % of their value after 100 steps).
        threshold_gradient: Bool: whether the gradient of the student's thresholds
            reaches the negatives that define them (`attach_thresholds`).
        memory: Int >= 0: rows of earlier batches to pair the batch with as well, as
            they were embedded then, by both models. They receive no gradient.
        same_image_pairs: Bool: whether pairs of one source image count as positives.
        miner: `PairMiner`: which FPRs, and how many of the hardest negatives. None:
            the default one.

    Returns:
        `{"ekd/positive": ..., "ekd/negative": ...}`, weighted float32 scalars. A
        batch without positive (negative) pairs has 0 there and a zero gradient.

    State:
        Of each model `MODEL_thresholds` `(num_fprs,)`, `MODEL_histogram` `(4097,)` and
        `memory_MODEL` `(memory, dim)`; `num_updates`, all float32; `memory_labels` and
        `memory_image_ids`, int64 `(memory,)`. None is trainable; all are saved with the
        run. A batch without negatives or with a row that is not finite changes none.

    Raises:
        ValueError: An argument outside its range, or `memory` without the two sizes.

    Reference:
        Huang et al., 2022, arXiv:2206.02325, equations 5 to 9. Compared with TFace
        `recognition/tasks/ekd/distillation/ekd.py`, whose gradient grows with the
        number of GPUs: a run on eight corresponds to a weight of 8 here.
    """

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
        miner: PairMiner | None = None,
        name: str = "ekd",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        check_positive("temperature", temperature)
        check_range("positive_weight", positive_weight, 0)
        check_range("negative_weight", negative_weight, 0)
        check_choice("thresholds", thresholds, THRESHOLDS)
        check_range("momentum", momentum, 0, 1, low_open=True)
        check_range("memory", memory, 0)
        if memory and None in (student_dim, teacher_dim):
            raise ValueError(
                "`memory` needs `student_dim` and `teacher_dim`; memory=0 does "
                f"without. Received: {memory=}, {student_dim=}, {teacher_dim=}"
            )
        self.student_dim = student_dim
        self.teacher_dim = teacher_dim
        self.temperature = float(temperature)
        self.positive_weight = float(positive_weight)
        self.negative_weight = float(negative_weight)
        self.thresholds = thresholds
        self.momentum = float(momentum)
        self.bias_correction = bool(bias_correction)
        self.threshold_gradient = bool(threshold_gradient)
        self.memory = int(memory)
        self.same_image_pairs = bool(same_image_pairs)
        self.miner = miner or PairMiner()

        fprs = (len(self.miner.fprs),)
        self.student_thresholds = self.add_state("student_thresholds", fprs)
        self.teacher_thresholds = self.add_state("teacher_thresholds", fprs)
        self.num_updates = self.add_state("num_updates", ())
        if self.thresholds == "histogram":
            bins = (HISTOGRAM_BINS,)
            self.student_histogram = self.add_state("student_histogram", bins)
            self.teacher_histogram = self.add_state("teacher_histogram", bins)
        if self.memory:
            rows, no_row = (self.memory,), keras.initializers.Constant(NO_ROW)
            self.memory_student = self.add_state(
                "memory_student", (*rows, self.student_dim)
            )
            self.memory_teacher = self.add_state(
                "memory_teacher", (*rows, self.teacher_dim)
            )
            self.memory_labels = self.add_state("memory_labels", rows, no_row, "int64")
            self.memory_image_ids = self.add_state(
                "memory_image_ids", rows, no_row, "int64"
            )

    @classmethod
    def reference(
        cls,
        student_dim: int | None = None,
        teacher_dim: int | None = None,
        name: str = "ekd",
    ) -> EKDLoss:
        """Returns the published form: the arithmetic of TFace to float32 rounding."""
        return cls(
            student_dim,
            teacher_dim,
            temperature=0.01,
            thresholds="ema",
            bias_correction=False,
            threshold_gradient=False,
            memory=0,
            same_image_pairs=True,
            name=name,
        )

    def compute(self, student, teacher, labels, image_ids, training):
        """Returns the two weighted terms and what to watch beside them.

        Per FPR f: `threshold/MODEL/fpr_f` (cosines), `batch_tpr/MODEL/fpr_f` (part of
        this batch's positives), `critical/positive/fpr_f`, `critical/negative/fpr_f`
        (pairs on different sides); over all FPRs `critical/...` and `pairs/...`.
        """
        if self.same_image_pairs:
            image_ids = None
        pairs = self.miner(
            student,
            teacher,
            labels,
            image_ids,
            self._remembered(image_ids) if self.memory else None,
            with_thresholds=self.thresholds == "ema",
        )
        if training:
            counts = pairs.finite & (pairs.num_negatives > 0)
            self._update_thresholds(pairs, counts)
            if self.memory:
                self._remember(pairs, labels, image_ids)
        thresholds = self.student_thresholds, self.teacher_thresholds
        thresholds = [tf.convert_to_tensor(variable) for variable in thresholds]
        return self._terms(student, labels, pairs, *thresholds)

    # Apart from the update of the thresholds, which several replicas cannot make inside
    # a nested function.
    @compiled
    def _terms(self, student, labels, pairs, student_thresholds, teacher_thresholds):
        student = l2_normalize(student)
        gallery = pairs.student.gallery
        negative_cosines = pair_similarity(student, gallery, pairs.negative)
        attached = student_thresholds
        if self.threshold_gradient:
            attached = self._attach(attached, student, labels, negative_cosines, pairs)

        def compare(student_cosines, teacher_cosines, thresholds):
            """Returns the loss of each pair, and how each model decides on it."""
            losses = rank_differences(
                student_cosines,
                teacher_cosines,
                thresholds,
                teacher_thresholds,
                self.temperature,
            )
            by_student = above(student_cosines, student_thresholds)
            by_teacher = above(teacher_cosines, teacher_thresholds)
            decisions = [by_student, by_teacher, by_student != by_teacher]
            ranks = [tf.reduce_sum(tf.cast(x, tf.int32), 1) for x in decisions[:2]]
            decisions.append((ranks[0] != ranks[1])[:, None])
            return losses, tf.cast(tf.concat(decisions, axis=1), tf.float32)

        positive, of_positive = sum_over_positives(
            compare, student, gallery, pairs.teacher.gallery, pairs.positive, attached
        )
        negative, of_negative = compare(
            negative_cosines, pairs.teacher.negative, attached
        )
        mask = tf.cast(pairs.negative_mask, tf.float32)
        num_positive = tf.cast(pairs.positive.num_pairs, tf.float32)
        terms = {
            f"{self.name}/positive": self.positive_weight
            * tf.math.divide_no_nan(positive, num_positive),
            f"{self.name}/negative": self.negative_weight
            * masked_mean(negative, pairs.negative_mask),
        }
        fprs = self.miner.fprs
        sizes = [len(fprs)] * 3 + [1]
        by_student, by_teacher, critical, any_critical = tf.split(of_positive, sizes)
        _, _, critical_negative, any_negative = tf.split(
            tf.linalg.matvec(of_negative, mask, transpose_a=True), sizes
        )
        monitor = {
            "critical/positive": any_critical[0],
            "critical/negative": any_negative[0],
            "pairs/positive": num_positive,
            "pairs/negative": tf.cast(pairs.num_negatives, tf.float32),
        }
        columns = {
            "threshold/student": student_thresholds,
            "threshold/teacher": teacher_thresholds,
            "batch_tpr/student": tf.math.divide_no_nan(by_student, num_positive),
            "batch_tpr/teacher": tf.math.divide_no_nan(by_teacher, num_positive),
            "critical/positive": critical,
            "critical/negative": critical_negative,
        }
        for column, values in columns.items():
            for fpr, value in zip(fprs, tf.unstack(values, len(fprs))):
                monitor[f"{column}/fpr_{format_fpr(fpr)}"] = value
        # Without the stop the backward pass visits all this too.
        return terms, {name: tf.stop_gradient(x) for name, x in monitor.items()}

    def _attach(self, thresholds, student, labels, negative_cosines, pairs):
        """Returns the thresholds with the gradient of the negatives around them."""
        ranks = ranks_of_fprs(pairs.num_negatives, self.miner.fprs)
        attached = attach_thresholds(
            thresholds, negative_cosines, pairs.negative_mask, ranks
        )
        queries, rows = student.shape[0], pairs.student.gallery.shape[0]
        if None not in (queries, rows):
            if queries * rows * max(self.miner.fprs) <= self.miner.num_negatives:
                return attached
        # The negatives around a threshold at a high FPR are more than were mined.
        count = tf.minimum(num_rows(student), SAMPLED_ROWS)
        sampled = attach_thresholds_to_sample(
            thresholds,
            similarity_matrix(student[:count]),
            labels[:count, None] != labels[None, :count],
            self.temperature / 2,
        )
        num_mined = tf.math.count_nonzero(pairs.negative_mask, dtype=tf.int32)
        return tf.where(ranks < num_mined, attached, sampled)

    def _update_thresholds(self, pairs, counts):
        """Moves the thresholds towards this batch's if the bool tensor `counts`."""
        seen = tf.cast(counts, tf.float32)
        updates = self.num_updates + seen
        self.num_updates.assign(updates)
        share = self.momentum
        if self.bias_correction:
            # Equals the average divided by 1 - (1 - momentum)^n, without storing both.
            decayed = tf.pow(1.0 - self.momentum, tf.maximum(updates, 1.0))
            share = self.momentum / (1.0 - decayed)
        share *= seen
        for side, mined in (("student", pairs.student), ("teacher", pairs.teacher)):
            variable = getattr(self, f"{side}_thresholds")
            if self.thresholds == "ema":
                # Without negatives the batch's thresholds are undefined.
                batch = tf.where(seen > 0, mined.thresholds, 0.0)
                variable.assign(variable + share * (batch - variable))
                continue
            histogram = getattr(self, f"{side}_histogram")
            batch = tf.cast(mined.histogram, tf.float32)
            decayed = histogram + seen * (batch - self.momentum * histogram)
            histogram.assign(decayed)
            quantiles = quantiles_of_histogram(decayed, self.miner.fprs)
            variable.assign(tf.where(updates > 0, quantiles, variable))

    def _remembered(self, image_ids):
        """Returns the `Memory`, without the images that the batch shows again."""
        labels = tf.convert_to_tensor(self.memory_labels)
        old_ids = tf.convert_to_tensor(self.memory_image_ids)
        if image_ids is not None:
            new_ids = tf.cast(image_ids, old_ids.dtype)
            again = tf.reduce_any(old_ids[:, None] == new_ids[None, :], axis=1)
            labels = tf.where(again, tf.cast(NO_ROW, labels.dtype), labels)
        return Memory(
            student=tf.convert_to_tensor(self.memory_student),
            teacher=tf.convert_to_tensor(self.memory_teacher),
            labels=tf.cast(labels, tf.int32),
            image_ids=old_ids,
        )

    def _remember(self, pairs, labels, image_ids):
        """Takes a batch in and drops the oldest rows, unless a row is not finite."""
        rows = num_rows(labels)
        if image_ids is None:
            image_ids = tf.fill(tf.shape(labels), NO_ROW)
        for variable, newest in (
            (self.memory_student, pairs.student.gallery[:rows]),
            (self.memory_teacher, pairs.teacher.gallery[:rows]),
            (self.memory_labels, labels),
            (self.memory_image_ids, image_ids),
        ):
            old = tf.convert_to_tensor(variable)
            both = tf.concat([tf.cast(newest, old.dtype), old], axis=0)
            first = tf.where(pairs.finite, 0, rows)
            kept = both[first : first + self.memory]
            variable.assign(tf.ensure_shape(kept, variable.shape))

    def get_config(self) -> dict:
        """Returns the arguments the layer was made with."""
        config = super().get_config()
        plain = set(inspect.signature(EKDLoss).parameters) - {"miner", "name", "kwargs"}
        config.update({name: getattr(self, name) for name in plain})
        of_miner = inspect.signature(PairMiner).parameters
        config["miner"] = {name: getattr(self.miner, name) for name in of_miner}
        return config

    @classmethod
    def from_config(cls, config: dict) -> EKDLoss:
        """Makes the layer anew from what `get_config` returned."""
        return cls(**{**config, "miner": PairMiner(**config["miner"])})
