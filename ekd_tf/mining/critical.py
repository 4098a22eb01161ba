"""Finds the pairs of a batch on which teacher and student may disagree.

A verifier accepts a pair whose cosine exceeds a threshold, and the threshold is set by
the false positives one allows. So for each model the thresholds are the order
statistics of its negative cosines at given FPRs, a pair's hard rank is the number of
thresholds its cosine exceeds, and a pair is critical where the ranks of the two models
differ: those pairs alone make the models' TPR and FPR differ.
"""

import typing

import tensorflow as tf

from ekd_tf.checks import check_range
from ekd_tf.checks import check_rank
from ekd_tf.checks import check_same_batch
from ekd_tf.mining.negatives import GROUP
from ekd_tf.mining.negatives import NegativePairs
from ekd_tf.mining.negatives import NegativePairsOfQueries
from ekd_tf.mining.negatives import look_up
from ekd_tf.mining.negatives import survey
from ekd_tf.ops.compiled import compiled
from ekd_tf.ops.numerics import as_float32
from ekd_tf.ops.numerics import as_int32
from ekd_tf.ops.numerics import l2_normalize
from ekd_tf.ops.numerics import num_rows
from ekd_tf.ops.pairwise import PositivePairs
from ekd_tf.ops.pairwise import all_pairs
from ekd_tf.ops.pairwise import differ
from ekd_tf.ops.pairwise import pair_similarity
from ekd_tf.ops.pairwise import positive_pairs
from ekd_tf.ops.pairwise import sum_over_positive_pairs
from ekd_tf.ops.ranking import NO_PAIR
from ekd_tf.ops.ranking import RankSearch
from ekd_tf.ops.ranking import coarse_histogram
from ekd_tf.ops.ranking import descending_keys
from ekd_tf.ops.ranking import exceeds
from ekd_tf.ops.ranking import groups_of_largest
from ekd_tf.ops.ranking import hard_rank
from ekd_tf.ops.ranking import ranks_of_fprs

DEFAULT_FPRS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


class Memory(typing.NamedTuple):
    """Rows of earlier batches, which pair with a batch's and not with one another.

    Attributes:
        student: Float32 `(rows, student_dim)`, of unit length.
        teacher: Float32 `(rows, teacher_dim)`, of unit length.
        labels: Int32 `(rows,)`; a row of label -1 pairs with none, whatever it holds.
        image_ids: Int32 `(rows,)`, none of them in the batch; or None.
    """

    student: tf.Tensor
    teacher: tf.Tensor
    labels: tf.Tensor
    image_ids: tf.Tensor


class ModelPairs(typing.NamedTuple):
    """What one model says of the mined pairs, without gradient.

    Attributes:
        embeddings: Float32 `(batch, dim)`, of unit length, the memory's rows behind
            them. A row that is not finite is zero here: a forward pass that overflowed
            spoils no count.
        negative: Float32 `(num_mined,)`, cosines of the mined negative pairs.
        thresholds: Float32 `(num_fprs,)`, cosine of the batch's negative at rank
            floor(num_negatives * fpr); undefined when there is no negative pair.
        histogram: Int32 `(4097,)`, all negatives counted in bins of width 2^-11,
            highest cosine first.
    """

    embeddings: tf.Tensor
    negative: tf.Tensor
    thresholds: tf.Tensor
    histogram: tf.Tensor


class MinedPairs(typing.NamedTuple):
    """The pairs of one batch.

    Attributes:
        positive: `PositivePairs`, every positive pair; `list_pairs` of
            `ekd_tf.ops.pairwise` makes a list of them.
        negative: Int32 `(num_mined, 2)`, the negatives most similar for the student,
            hardest first.
        negative_mask: Bool `(num_mined,)`, False on the filling rows that stand where
            the batch has fewer negatives than asked for.
        num_negatives: Int32 scalar, all negative pairs of the batch.
        finite: Bool scalar, whether all embeddings are.
        student: `ModelPairs`.
        teacher: `ModelPairs`.
    """

    positive: PositivePairs
    negative: tf.Tensor
    negative_mask: tf.Tensor
    num_negatives: tf.Tensor
    finite: tf.Tensor
    student: ModelPairs
    teacher: ModelPairs


class CriticalCounts(typing.NamedTuple):
    """How two models' decisions on the mined pairs compare at each threshold.

    Attributes:
        positive: Int32 `(num_fprs,)`, positive pairs on different sides.
        negative: Int32 `(num_fprs,)`, mined negatives on different sides.
        positive_any: Int32 scalar, positives whose hard ranks differ.
        negative_any: Int32 scalar, mined negatives whose hard ranks differ.
        student_tpr: Float32 `(num_fprs,)`, share of positives above the student's
            thresholds; 0 without positives.
        teacher_tpr: Float32 `(num_fprs,)`, the same for the teacher.
    """

    positive: tf.Tensor
    negative: tf.Tensor
    positive_any: tf.Tensor
    negative_any: tf.Tensor
    student_tpr: tf.Tensor
    teacher_tpr: tf.Tensor


class CriticalPairMiner:
    """Mines a batch for its positives, hardest negatives and both models' thresholds.

    Selection, not sorting: the cosines of all pairs are computed once per model in
    blocks (`NegativePairs`) and counted (`RankSearch`). Only the few pairs of a small
    batch are sorted. No gradient flows through any of it; a loss recomputes the mined
    pairs from their rows.

    Works eagerly, in a `tf.function` and under XLA, which needs a batch size known
    when tracing.

    Args:
        fprs: Floats in (0, 1), the false positive rates of the thresholds.
        num_negatives: Int: how many of the negatives most similar for the student
            to mine.
        thresholds: Bool: whether to read the batch's own thresholds. Without, they
            are filled with zeros and half the counting is saved.
        block_rows: None, or int: compute cosines in blocks of about this many rows and
            keep none of them. Memory then grows with the batch, not with its pairs, and
            every product is computed twice. Beside a memory blocks have a size of
            their own.

    Reference:
        Huang et al., 2022, arXiv:2206.02325, section 3. TFace sorts all negatives of
        both models and takes element `num_negatives // 10**k`; this selects the same
        element (within 2^-23).
    """

    def __init__(
        self,
        fprs=DEFAULT_FPRS,
        num_negatives=2000,
        thresholds=True,
        block_rows=None,
    ):
        if not len(fprs):
            raise ValueError("`fprs` must name at least one rate. Received: none")
        for fpr in fprs:
            check_range("fprs", fpr, 0, 1, low_open=True, high_open=True)
        check_range("num_negatives", num_negatives, 1)
        if block_rows is not None:
            check_range("block_rows", block_rows, 1)
        self.fprs = tuple(float(fpr) for fpr in fprs)
        self.num_negatives = int(num_negatives)
        self.thresholds = bool(thresholds)
        self.block_rows = None if block_rows is None else int(block_rows)

    def __call__(self, student, teacher, labels, image_ids=None, memory=None):
        """Returns the `MinedPairs` of a batch.

        Args:
            student: Float tensor `(batch, student_dim)`, normalised here.
            teacher: Float tensor `(batch, teacher_dim)`, same images, same order.
            labels: Integer tensor `(batch,)`.
            image_ids: Integer tensor `(batch,)` naming the source image of each row,
                or None. Positive pairs of one source image are left out.
            memory: None, or `Memory`; its rows are numbered on from the batch's.
        """
        # Stopped before the function, whose gradient would be built otherwise.
        batch = {
            "student": tf.stop_gradient(as_float32(student)),
            "teacher": tf.stop_gradient(as_float32(teacher)),
            "labels": as_int32(labels),
        }
        if image_ids is not None:
            batch["image_ids"] = as_int32(image_ids)
        for name, tensor in batch.items():
            check_rank(name, tensor, 2 if name in ("student", "teacher") else 1)
        check_same_batch(**batch)
        return self._mine(memory=memory, **batch)

    @compiled
    def _mine(self, student, teacher, labels, image_ids=None, memory=None):
        student, student_finite = _unit_rows(student)
        teacher, teacher_finite = _unit_rows(teacher)
        few, num_queries = all_pairs(labels.shape[0]), None
        if memory is not None:
            num_queries = num_rows(labels)
            student = tf.concat([student, memory.student], axis=0)
            teacher = tf.concat([teacher, memory.teacher], axis=0)
            labels = tf.concat([labels, memory.labels], axis=0)
            if image_ids is not None:
                image_ids = tf.concat([image_ids, memory.image_ids], axis=0)
            pairs = NegativePairsOfQueries(labels, num_queries)
            mined = self._select(student, teacher, pairs)
        elif few is not None and self.block_rows is None:
            mined = self._sort(student, teacher, labels, few)
        else:
            pairs = NegativePairs(labels, self.block_rows)
            mined = self._select(student, teacher, pairs)
        hardest, negative, num_negatives, student_pairs, teacher_pairs = mined
        mask = hardest > NO_PAIR

        def model_pairs(embeddings, negative, thresholds, histogram):
            negative = tf.where(mask, negative, 0.0)
            return ModelPairs(embeddings, negative, thresholds, histogram)

        return MinedPairs(
            positive=positive_pairs(labels, image_ids, num_queries),
            negative=tf.where(mask[:, None], negative, 0),
            negative_mask=mask,
            num_negatives=num_negatives,
            finite=student_finite & teacher_finite,
            student=model_pairs(student, *student_pairs),
            teacher=model_pairs(teacher, *teacher_pairs),
        )

    def _sort(self, student, teacher, labels, pairs):
        """Mines the listed pairs by sorting them.

        Returns:
            `(hardest, pairs, num_negatives, student, teacher)`: the student's cosines
            of the mined pairs, falling, `NO_PAIR` where there is none; their rows; and
            per model their cosines, the thresholds and the histogram.
        """
        is_negative = differ(labels, pairs)
        num_negatives = tf.math.count_nonzero(is_negative, dtype=tf.int32)
        ranks = ranks_of_fprs(num_negatives, self.fprs)

        def sort(embeddings):
            cosines = tf.where(is_negative, pair_similarity(embeddings, pairs), NO_PAIR)
            falling, order = tf.math.top_k(cosines, len(pairs))
            thresholds = tf.zeros([len(self.fprs)])
            if self.thresholds:
                thresholds = tf.gather(falling, ranks)
            return (
                cosines,
                order,
                thresholds,
                coarse_histogram(descending_keys(cosines)),
            )

        student, order, *student_pairs = sort(student)
        teacher, _, *teacher_pairs = sort(teacher)
        order = order[: self.num_negatives]
        hardest = tf.gather(student, order)
        return (
            hardest,
            tf.gather(pairs, order),
            num_negatives,
            (hardest, *student_pairs),
            (tf.gather(teacher, order), *teacher_pairs),
        )

    def _select(self, student, teacher, pairs):
        """Mines `pairs` by counting them; returns what `_sort` does."""

        def selection(embeddings, groups=None):
            histogram, maxima, read = survey(
                pairs,
                pairs.reader(embeddings),
                with_maxima=groups is None,
                keep=self.block_rows is None,
            )
            if groups is None:
                groups = groups_of_largest(maxima, self.num_negatives)
            search = None
            if self.thresholds:
                ranks = ranks_of_fprs(tf.reduce_sum(histogram), self.fprs)
                search = RankSearch(histogram, ranks)
            thresholds, entries = look_up(pairs, read, search, groups)
            if thresholds is None:
                thresholds = tf.zeros([len(self.fprs)])
            return groups, tf.reshape(entries, [-1]), thresholds, histogram

        groups, entries, *student_pairs = selection(student)
        _, teacher_entries, *teacher_pairs = selection(teacher, groups)
        count = min(self.num_negatives, entries.shape[0])
        hardest, places = tf.math.top_k(entries, count)
        positions = tf.gather(groups, places // GROUP) * GROUP + places % GROUP
        return (
            hardest,
            pairs.pairs_at(positions),
            tf.reduce_sum(student_pairs[1]),
            (hardest, *student_pairs),
            (tf.gather(teacher_entries, places), *teacher_pairs),
        )


def critical_counts(pairs, student_thresholds, teacher_thresholds):
    """Counts the mined pairs on which the two models decide differently.

    Args:
        pairs: `MinedPairs`.
        student_thresholds: Float32 tensor `(num_fprs,)`.
        teacher_thresholds: Float32 tensor `(num_fprs,)`.

    Returns:
        `CriticalCounts`.
    """
    student, teacher = pairs.student, pairs.teacher
    num_fprs = student_thresholds.shape[0]

    def columns(student_cosines, teacher_cosines, student_thresholds):
        student_above = exceeds(student_cosines, student_thresholds)
        teacher_above = exceeds(teacher_cosines, teacher_thresholds)
        ranks_differ = hard_rank(student_cosines, student_thresholds) != hard_rank(
            teacher_cosines, teacher_thresholds
        )
        masks = [
            student_above,
            teacher_above,
            student_above != teacher_above,
            ranks_differ[:, None],
        ]
        return tf.cast(tf.concat(masks, axis=1), tf.float32)

    sizes = [num_fprs, num_fprs, num_fprs, 1]
    student_above, teacher_above, positive, positive_any = tf.split(
        sum_over_positive_pairs(
            columns,
            student.embeddings,
            teacher.embeddings,
            pairs.positive,
            student_thresholds,
        ),
        sizes,
    )
    mask = tf.cast(pairs.negative_mask, tf.float32)[:, None]
    of_negatives = columns(student.negative, teacher.negative, student_thresholds)
    _, _, negative, negative_any = tf.split(
        tf.reduce_sum(of_negatives * mask, axis=0), sizes
    )
    num_positive = tf.cast(pairs.positive.num_pairs, tf.float32)
    return CriticalCounts(
        positive=tf.cast(positive, tf.int32),
        negative=tf.cast(negative, tf.int32),
        positive_any=tf.cast(positive_any[0], tf.int32),
        negative_any=tf.cast(negative_any[0], tf.int32),
        student_tpr=tf.math.divide_no_nan(student_above, num_positive),
        teacher_tpr=tf.math.divide_no_nan(teacher_above, num_positive),
    )


def _unit_rows(embeddings):
    rows = l2_normalize(embeddings)
    # The sum of a unit row is finite where all its entries are.
    finite = tf.math.is_finite(tf.reduce_sum(rows, axis=1))
    return tf.where(finite[:, None], rows, 0.0), tf.reduce_all(finite)
