"""Evaluation-oriented knowledge distillation: the rank loss on critical pairs."""

import tensorflow as tf

from ekd_tf.checks import check_choice
from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range
from ekd_tf.losses.base import DistillationLoss
from ekd_tf.losses.ekd_presets import check_reference
from ekd_tf.losses.ekd_presets import resolve_preset
from ekd_tf.losses.memory import EmbeddingMemory
from ekd_tf.mining.critical import DEFAULT_FPRS
from ekd_tf.mining.critical import CriticalPairMiner
from ekd_tf.mining.critical import critical_counts
from ekd_tf.ops.compiled import compiled
from ekd_tf.ops.numerics import l2_normalize
from ekd_tf.ops.numerics import masked_mean
from ekd_tf.ops.numerics import num_rows
from ekd_tf.ops.pairwise import pair_similarity
from ekd_tf.ops.pairwise import similarity_matrix
from ekd_tf.ops.pairwise import sum_over_positive_pairs
from ekd_tf.ops.ranking import HISTOGRAM_BINS
from ekd_tf.ops.ranking import attach_thresholds
from ekd_tf.ops.ranking import attach_thresholds_to_sample
from ekd_tf.ops.ranking import quantiles_of_histogram
from ekd_tf.ops.ranking import ranks_of_fprs
from ekd_tf.ops.ranking import soft_rank
from ekd_tf.stack import register

THRESHOLDS = ("ema", "histogram")
# Rows among whose pairs the negatives around a threshold at a high FPR are looked for.
SAMPLED_ROWS = 256


def rank_differences(
    student_similarities,
    teacher_similarities,
    student_thresholds,
    teacher_thresholds,
    temperature,
):
    r"""Returns the squared difference of two models' soft ranks, pair by pair.

    $$ (R_s - R_t)^2, \quad R(s) = \sum_k \sigma\big((s - T_k) / \tau\big) $$

    Each model is ranked against its own thresholds, so only which thresholds a pair
    passes is compared, not the cosines.

    Args:
        student_similarities: Float32 tensor `(num_pairs,)` of cosines.
        teacher_similarities: Float32 tensor `(num_pairs,)` of cosines.
        student_thresholds: Float32 tensor `(num_fprs,)` of cosines.
        teacher_thresholds: Float32 tensor `(num_fprs,)` of cosines.
        temperature: Float > 0 in units of cosine.

    Returns:
        Float32 tensor `(num_pairs,)` in [0, num_fprs^2]. The mean squared error of
        the summed rank: a pair k thresholds off costs k^2.
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

    As published (`preset="reference"`) the thresholds are constants in the gradient.
    Then the positive term can be met by raising every cosine: the thresholds follow
    about 1 / momentum steps later, and a student that starts from scratch chases them
    towards 1. The default differs in four things:

    - The gradient of the student's thresholds reaches the negatives that define them,
      which makes the term relative: raising every cosine changes nothing.
    - Thresholds are quantiles of a decayed histogram of all negatives, so that FPRs
      exist that one small batch cannot resolve.
    - The temperature is ten times as wide: with 0.01 the slope ends about 0.05 from
      a threshold, and most critical pairs of a student from scratch are further away.
    - A memory: the batch is paired with the 2,048 images before it too. A batch of
      128 images and 16 identities twice, of 800 identities, so has 440 positive pairs
      instead of 32, and 27 times the negatives.

    What was tried, and what it did to the TPR, is in tools/candidates.md.

    Args:
        fprs: Floats in (0, 1): the false positive rates of the thresholds.
        temperature: Float > 0, in units of cosine; None for the preset's, 0.1 or
            0.01. The slope is noticeable within about five temperatures of a
            threshold.
        num_negatives: Int: how many of the student's most similar negatives count.
        momentum: Float in (0, 1]: the share of the newest batch in the thresholds.
        positive_weight: Float >= 0 of the positive term.
        negative_weight: Float >= 0 of the negative term.
        thresholds: "histogram" keeps an exponentially decayed histogram of negative
            cosines and reads the thresholds from it; "ema" averages each batch's
            order statistics. None for the preset's.
        bias_correction: Bool: whether "ema" thresholds start at the first batch's
            (True) or at 0 (False, as in TFace: 63 % of their value after 100 steps).
            None for the preset's.
        threshold_gradient: Bool: whether the gradient of the student's thresholds
            reaches the negatives that define them (`attach_thresholds`). None for
            the preset's.
        preset: "default", or "reference" for the arithmetic of TFace to float32
            rounding: temperature 0.01, "ema" without bias correction, no threshold
            gradient, pairs of one source image count, and nothing else is accepted.
        block_rows: None, or int: mine in blocks of about this many rows, for batches
            whose pairs do not fit into memory (`CriticalPairMiner`).
        memory: Int >= 0: rows of earlier batches to pair the batch with as well, as
            they were embedded then, by both models. They receive no gradient. None
            for the preset's, 2048 or 0; without the two sizes below it is 0.
        student_dim: Int, size of the student's embeddings, which `memory` needs.
        teacher_dim: Int, size of the teacher's, likewise.
        name: Name of the layer and prefix of its terms.

    Returns:
        `{"ekd/positive": ..., "ekd/negative": ...}`, weighted float32 scalars. A
        batch without positive (negative) pairs has 0 there and a zero gradient.

    State:
        student_thresholds, teacher_thresholds: float32 `(num_fprs,)`, the thresholds
        use. num_updates: float32 scalar, batches counted so far. With
        thresholds="histogram" also student_histogram and teacher_histogram: float32
        `(4097,)`; with memory those of `EmbeddingMemory`. None is trainable; all are
        saved with the run. A batch without negative pairs, or with an embedding that is
        not finite, leaves them alone.

    Raises:
        ValueError: An argument outside its range, `memory` without the two sizes, or
            `preset="reference"` together with an argument that contradicts it.

    Reference:
        Huang et al., 2022, arXiv:2206.02325, equations 5 to 9. Compared with TFace
        `recognition/tasks/ekd/distillation/ekd.py`, whose gradient grows with the
        number of GPUs because its all-gather sums what every GPU computes in full;
        here the loss means the same on any number of replicas. A run on eight GPUs
        with TFace corresponds to a weight of 8.
    """

    uses_labels = True

    def __init__(
        self,
        fprs=DEFAULT_FPRS,
        temperature=None,
        num_negatives=2000,
        momentum=0.01,
        positive_weight=0.02,
        negative_weight=0.01,
        thresholds=None,
        bias_correction=None,
        threshold_gradient=None,
        preset="default",
        block_rows=None,
        memory=None,
        student_dim=None,
        teacher_dim=None,
        name="ekd",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        chosen = resolve_preset(
            preset,
            temperature=temperature,
            thresholds=thresholds,
            bias_correction=bias_correction,
            threshold_gradient=threshold_gradient,
            memory=memory,
        )
        if None in (student_dim, teacher_dim):
            if memory:
                raise ValueError(
                    "`memory` needs `student_dim` and `teacher_dim`. Received: "
                    f"{memory=}, {student_dim=}, {teacher_dim=}"
                )
            chosen["memory"] = 0
        check_positive("temperature", chosen["temperature"])
        check_range("momentum", momentum, 0, 1, low_open=True)
        check_range("positive_weight", positive_weight, 0)
        check_range("negative_weight", negative_weight, 0)
        check_choice("thresholds", chosen["thresholds"], THRESHOLDS)
        check_range("memory", chosen["memory"], 0)
        self.miner = CriticalPairMiner(
            fprs,
            num_negatives,
            thresholds=chosen["thresholds"] == "ema",
            block_rows=block_rows,
        )
        self.fprs = self.miner.fprs
        self.temperature = float(chosen["temperature"])
        self.num_negatives = self.miner.num_negatives
        self.momentum = float(momentum)
        self.positive_weight = float(positive_weight)
        self.negative_weight = float(negative_weight)
        self.thresholds = chosen["thresholds"]
        self.bias_correction = bool(chosen["bias_correction"])
        self.threshold_gradient = bool(chosen["threshold_gradient"])
        self.preset = preset
        self.block_rows = self.miner.block_rows
        self.memory = int(chosen["memory"])
        self.student_dim = student_dim
        self.teacher_dim = teacher_dim
        if preset == "reference":
            check_reference(self)

        count = len(self.fprs)
        self.student_thresholds = self.add_state("student_thresholds", (count,))
        self.teacher_thresholds = self.add_state("teacher_thresholds", (count,))
        self.num_updates = self.add_state("num_updates", ())
        if self.thresholds == "histogram":
            bins = (HISTOGRAM_BINS,)
            self.student_histogram = self.add_state("student_histogram", bins)
            self.teacher_histogram = self.add_state("teacher_histogram", bins)
        if self.memory:
            self._memory = EmbeddingMemory(self, self.memory, student_dim, teacher_dim)

    def compute(self, student, teacher, labels, image_ids, training):
        """Returns the two weighted terms and what to watch beside them.

        The second dict holds, per FPR f: `threshold/student/fpr_f`,
        `threshold/teacher/fpr_f` (cosines), `batch_tpr/student/fpr_f`,
        `batch_tpr/teacher/fpr_f` (shares of this batch's positives),
        `critical/positive/fpr_f`, `critical/negative/fpr_f` (pairs on different
        sides); and over all thresholds `critical/positive`, `critical/negative`,
        `pairs/positive`, `pairs/negative` (counts).
        """
        if self.preset == "reference":
            image_ids = None
        memory = self._memory.beside(image_ids) if self.memory else None
        pairs = self.miner(student, teacher, labels, image_ids, memory)
        if training:
            counts = pairs.finite & (pairs.num_negatives > 0)
            self._update_thresholds(pairs, counts)
            if self.memory:
                batch = num_rows(student)
                self._memory.push(
                    pairs.student.embeddings[:batch],
                    pairs.teacher.embeddings[:batch],
                    labels,
                    image_ids,
                    pairs.finite,
                )
        return self._terms(
            student,
            pairs,
            tf.convert_to_tensor(self.student_thresholds),
            tf.convert_to_tensor(self.teacher_thresholds),
        )

    # Apart from the update of the thresholds, which several replicas cannot make inside
    # a nested function.
    @compiled
    def _terms(self, student, pairs, student_thresholds, teacher_thresholds):
        student = l2_normalize(student)
        gallery = pairs.student.embeddings if self.memory else None
        negative_cosines = pair_similarity(student, pairs.negative, gallery)
        attached = student_thresholds
        if self.threshold_gradient:
            attached = self._attach(
                student_thresholds, student, negative_cosines, pairs
            )

        def differences(student_cosines, teacher_cosines, thresholds):
            return rank_differences(
                student_cosines,
                teacher_cosines,
                thresholds,
                teacher_thresholds,
                self.temperature,
            )

        positive = sum_over_positive_pairs(
            lambda *arguments: differences(*arguments)[:, None],
            student,
            pairs.teacher.embeddings,
            pairs.positive,
            attached,
            gallery,
        )
        negative = differences(negative_cosines, pairs.teacher.negative, attached)
        num_positive = tf.cast(pairs.positive.num_pairs, tf.float32)
        terms = {
            f"{self.name}/positive": self.positive_weight
            * tf.math.divide_no_nan(positive[0], num_positive),
            f"{self.name}/negative": self.negative_weight
            * masked_mean(negative, pairs.negative_mask),
        }
        return terms, self._monitor(pairs, student_thresholds, teacher_thresholds)

    def _attach(self, thresholds, student, negative_cosines, pairs):
        """Returns the thresholds with the gradient of the negatives around them."""
        ranks = ranks_of_fprs(pairs.num_negatives, self.fprs)
        attached = attach_thresholds(
            thresholds, negative_cosines, pairs.negative_mask, ranks
        )
        queries, rows = student.shape[0], pairs.positive.labels.shape[0]
        if None not in (queries, rows):
            if queries * rows * max(self.fprs) <= self.num_negatives:
                return attached
        # The negatives around a threshold at a high FPR are more than were mined.
        count = tf.minimum(num_rows(student), SAMPLED_ROWS)
        sampled = attach_thresholds_to_sample(
            thresholds,
            similarity_matrix(student[:count]),
            pairs.positive.labels[:count, None] != pairs.positive.labels[None, :count],
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
            quantiles = quantiles_of_histogram(decayed, self.fprs)
            variable.assign(tf.where(updates > 0, quantiles, variable))

    def _monitor(self, pairs, student_thresholds, teacher_thresholds):
        counts = critical_counts(pairs, student_thresholds, teacher_thresholds)
        monitor = {
            "critical/positive": counts.positive_any,
            "critical/negative": counts.negative_any,
            "pairs/positive": pairs.positive.num_pairs,
            "pairs/negative": pairs.num_negatives,
        }
        columns = {
            "threshold/student": student_thresholds,
            "threshold/teacher": teacher_thresholds,
            "batch_tpr/student": counts.student_tpr,
            "batch_tpr/teacher": counts.teacher_tpr,
            "critical/positive": counts.positive,
            "critical/negative": counts.negative,
        }
        for name, values in columns.items():
            for fpr, value in zip(self.fprs, tf.unstack(values, len(self.fprs))):
                monitor[f"{name}/fpr_{_fpr_name(fpr)}"] = value
        # Without the stop the backward pass visits all this too, and splits along an
        # axis that XLA can only know by compiling anew for every batch.
        return {
            name: tf.stop_gradient(tf.cast(value, tf.float32))
            for name, value in monitor.items()
        }

    def get_config(self):
        """Returns the arguments the layer was made with."""
        config = super().get_config()
        config.update(
            fprs=list(self.fprs),
            temperature=self.temperature,
            num_negatives=self.num_negatives,
            momentum=self.momentum,
            positive_weight=self.positive_weight,
            negative_weight=self.negative_weight,
            thresholds=self.thresholds,
            bias_correction=self.bias_correction,
            threshold_gradient=self.threshold_gradient,
            preset=self.preset,
            block_rows=self.block_rows,
            memory=self.memory,
            student_dim=self.student_dim,
            teacher_dim=self.teacher_dim,
        )
        return config


def _fpr_name(fpr):
    """Returns `1e-3` for 0.001 and `1.5e-2` for 0.015."""
    digits, exponent = f"{fpr:.5e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"
