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
from ekd_tf.ops.numerics import l2_normalize
from ekd_tf.ops.pairwise import PositivePairs
from ekd_tf.ops.pairwise import positive_pairs
from ekd_tf.ops.pairwise import sum_over_positive_pairs
from ekd_tf.ops.ranking import NO_PAIR
from ekd_tf.ops.ranking import coarse_histogram
from ekd_tf.ops.ranking import descending_keys
from ekd_tf.ops.ranking import entries_at
from ekd_tf.ops.ranking import exceeds
from ekd_tf.ops.ranking import hard_rank
from ekd_tf.ops.ranking import largest
from ekd_tf.ops.ranking import ranks_of_fprs
from ekd_tf.ops.ranking import select_descending

DEFAULT_FPRS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)

# Columns per group in the search for the largest cosines.
GROUP = 32
# Row blocks the upper triangle is cut into: 8 leave 9/16 of the full matrix.
MAX_BLOCKS = 8
# Below this many rows a block costs more to start than it saves.
MIN_BLOCK_ROWS = 256


class ModelPairs(typing.NamedTuple):
    """What one model says of the mined pairs, without gradient.

    Attributes:
        embeddings: Float32 `(batch, dim)`, of unit length. A row that is not finite is
            zero here: a forward pass that overflowed spoils no count.
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
    blocks of the upper triangle and counted (`ekd_tf.ops.ranking`). No gradient flows
    through any of it; a loss recomputes the mined pairs from their rows.

    Works eagerly, in a `tf.function` and under XLA, which needs a batch size known
    when tracing.

    Args:
        fprs: Floats in (0, 1), the false positive rates of the thresholds.
        num_negatives: Int: how many of the negatives most similar for the student
            to mine.
        thresholds: Bool: whether to read the batch's own thresholds. Without, they
            are filled with zeros and half the counting is saved.

    Reference:
        Huang et al., 2022, arXiv:2206.02325, section 3. TFace sorts all negatives of
        both models and takes element `num_negatives // 10**k`; this selects the same
        element (within 2^-23).
    """

    def __init__(self, fprs=DEFAULT_FPRS, num_negatives=2000, thresholds=True):
        if not len(fprs):
            raise ValueError("`fprs` must name at least one rate. Received: none")
        for fpr in fprs:
            check_range("fprs", fpr, 0, 1, low_open=True, high_open=True)
        check_range("num_negatives", num_negatives, 1)
        self.fprs = tuple(float(fpr) for fpr in fprs)
        self.num_negatives = int(num_negatives)
        self.thresholds = bool(thresholds)

    def __call__(self, student, teacher, labels, image_ids=None):
        """Returns the `MinedPairs` of a batch.

        Args:
            student: Float tensor `(batch, student_dim)`, normalised here.
            teacher: Float tensor `(batch, teacher_dim)`, same images, same order.
            labels: Integer tensor `(batch,)`.
            image_ids: Integer tensor `(batch,)` naming the source image of each row,
                or None. Positive pairs of one source image are left out.
        """
        batch = {
            "student": tf.convert_to_tensor(student),
            "teacher": tf.convert_to_tensor(teacher),
            "labels": tf.convert_to_tensor(labels),
        }
        if image_ids is not None:
            batch["image_ids"] = tf.convert_to_tensor(image_ids)
        for name, tensor in batch.items():
            check_rank(name, tensor, 2 if name in ("student", "teacher") else 1)
        check_same_batch(**batch)
        return self._mine(**batch)

    @tf.function
    def _mine(self, student, teacher, labels, image_ids=None):
        student, student_finite = _unit_rows(student)
        teacher, teacher_finite = _unit_rows(teacher)
        triangle = _Triangle(labels)

        similarities = triangle.negative_similarities(student)
        hardest, positions = largest(similarities, self.num_negatives)
        mask = hardest > NO_PAIR
        negative = tf.where(mask[:, None], triangle.pairs_at(positions), 0)

        def model_pairs(embeddings, similarities, negative):
            keys = [descending_keys(block) for block in similarities]
            histogram = coarse_histogram(keys)
            thresholds = tf.zeros([len(self.fprs)])
            if self.thresholds:
                ranks = ranks_of_fprs(tf.reduce_sum(histogram), self.fprs)
                thresholds = select_descending(keys, ranks, histogram)
            return ModelPairs(
                embeddings=embeddings,
                negative=tf.where(mask, negative, 0.0),
                thresholds=thresholds,
                histogram=histogram,
            )

        student_pairs = model_pairs(student, similarities, hardest)
        similarities = triangle.negative_similarities(teacher)
        teacher_pairs = model_pairs(
            teacher, similarities, entries_at(similarities, positions)
        )
        return MinedPairs(
            positive=positive_pairs(labels, image_ids),
            negative=negative,
            negative_mask=mask,
            num_negatives=tf.reduce_sum(student_pairs.histogram),
            finite=student_finite & teacher_finite,
            student=student_pairs,
            teacher=teacher_pairs,
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
    rows = tf.stop_gradient(l2_normalize(embeddings))
    # The sum of a unit row is finite where all its entries are.
    finite = tf.math.is_finite(tf.reduce_sum(rows, axis=1))
    return tf.where(finite[:, None], rows, 0.0), tf.reduce_all(finite)


class _Triangle:
    """The negative pairs of a batch: the upper triangle in groups of columns.

    The batch is padded to a multiple of `GROUP` and the triangle is cut into row
    blocks, each reaching from its own first row to the last column, so a little more
    than half of the matrix is computed. Each block is stored as rows of `GROUP`
    consecutive columns; entries that are no negative pair hold `NO_PAIR`.
    """

    def __init__(self, labels):
        # Of Python type where the size is known, so that all shapes are static.
        minimum, maximum = min, max
        self._batch = labels.shape[0]
        if self._batch is None:
            minimum, maximum = tf.minimum, tf.maximum
            self._batch = tf.shape(labels)[0]
        self._padded = -(-self._batch // GROUP) * GROUP
        rows = -(-self._padded // (MAX_BLOCKS * GROUP)) * GROUP
        rows = maximum(rows, MIN_BLOCK_ROWS)
        # A batch too small for all blocks leaves the last ones without rows.
        edges = [minimum(i * rows, self._padded) for i in range(MAX_BLOCKS + 1)]
        self._blocks = [
            (start, end)
            for start, end in zip(edges[:-1], edges[1:])
            if not isinstance(start, int) or start < end
        ]
        labels = tf.pad(labels, [[0, self._padded - self._batch]])
        self._masks = []
        for start, end in self._blocks:
            columns = tf.range(start, self._padded)
            self._masks.append(
                (labels[start:end, None] != labels[None, start:])
                & (columns[None, :] > tf.range(start, end)[:, None])
                & (columns < self._batch)[None, :]
            )

    def negative_similarities(self, embeddings):
        """Returns all cosines in blocks `(num_groups, GROUP)`; see the class."""
        embeddings = tf.pad(embeddings, [[0, self._padded - self._batch], [0, 0]])
        groups = []
        for (start, end), mask in zip(self._blocks, self._masks):
            block = tf.matmul(
                embeddings[start:end], embeddings[start:], transpose_b=True
            )
            block = tf.where(mask, block, NO_PAIR)
            groups.append(tf.reshape(block, [-1, GROUP]))
        return groups

    def pairs_at(self, positions):
        """Turns positions in the concatenated blocks into pairs of rows, `(k, 2)`."""
        starts = tf.stack([start for start, _ in self._blocks])
        widths = self._padded - starts
        sizes = widths * tf.stack([end - start for start, end in self._blocks])
        firsts = tf.cumsum(sizes, exclusive=True)
        block = tf.searchsorted(firsts, positions, side="right") - 1
        start = tf.gather(starts, block)
        # Positions beyond the last entry may fall into a block without rows.
        width = tf.maximum(tf.gather(widths, block), 1)
        inside = positions - tf.gather(firsts, block)
        return tf.stack([start + inside // width, start + inside % width], axis=1)
