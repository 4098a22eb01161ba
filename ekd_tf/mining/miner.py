"""Finds the pairs of a batch on which teacher and student may disagree.

A verifier accepts a pair whose cosine exceeds a threshold, and the threshold is set by
the false positives one allows. So for each model the thresholds are the order
statistics of its negative cosines at given FPRs, a pair's rank is the number of
thresholds its cosine exceeds, and a pair is critical where the ranks of the two models
differ: those pairs alone make the models' TPR and FPR differ. They are sought among
the positives and the negatives with the student's highest cosines.

Nothing here sorts all pairs: they come in blocks, the hardest are selected, and all are
counted, which gives their order statistics.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence

import tensorflow as tf

from ekd_tf.checks import check_range
from ekd_tf.checks import check_rank
from ekd_tf.checks import check_same_batch
from ekd_tf.mining.order_statistics import HISTOGRAM_BINS
from ekd_tf.mining.order_statistics import RankSearch
from ekd_tf.mining.order_statistics import coarse_histogram
from ekd_tf.mining.order_statistics import descending_keys
from ekd_tf.mining.order_statistics import ranks_of_fprs
from ekd_tf.mining.pairs import GROUP
from ekd_tf.mining.pairs import NO_PAIR
from ekd_tf.mining.pairs import NegativeBlocks
from ekd_tf.mining.pairs import PositivePairs
from ekd_tf.mining.pairs import positive_pairs
from ekd_tf.ops.compiled import compiled
from ekd_tf.ops.numerics import as_float32
from ekd_tf.ops.numerics import as_int32
from ekd_tf.ops.numerics import l2_normalize
from ekd_tf.ops.numerics import num_rows

DEFAULT_FPRS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


class Memory(typing.NamedTuple):
    """Rows of earlier batches, behind the batch in the gallery.

    Student and teacher: float32 `(rows, dim)`, of unit length. Labels: int32 `(rows,)`,
    `NO_ROW` where there is no row. Image ids: integer `(rows,)`, none in the batch.
    """

    student: tf.Tensor
    teacher: tf.Tensor
    labels: tf.Tensor
    image_ids: tf.Tensor


class ModelPairs(typing.NamedTuple):
    """What one model says of the mined pairs, without gradient.

    Attributes:
        gallery: Float32 `(rows, dim)`, the batch's embeddings of unit length, the
            memory's behind them. A row that is not finite is zero here: a forward pass
            that overflowed spoils no count.
        negative: Float32 `(num_mined,)`, cosines of the mined negative pairs.
        histogram: Int32 `(4097,)`, all negatives counted in bins of width 2^-11,
            highest cosine first.
        thresholds: Float32 `(num_fprs,)`, cosine of the batch's negative at rank
            floor(num_negatives * fpr), undefined without negative pairs; or None.
    """

    gallery: tf.Tensor
    negative: tf.Tensor
    histogram: tf.Tensor
    thresholds: tf.Tensor | None


class MinedPairs(typing.NamedTuple):
    """The pairs of one batch.

    Attributes:
        positive: Every positive pair.
        negative: Int32 `(num_mined, 2)`, a query and a gallery row: the negatives most
            similar for the student, hardest first.
        negative_mask: Bool `(num_mined,)`, False on the filling rows that stand where
            the batch has fewer negatives than asked for.
        num_negatives: Int32 scalar, all negative pairs.
        finite: Bool scalar, whether all embeddings are.
        student, teacher: The two models.
    """

    positive: PositivePairs
    negative: tf.Tensor
    negative_mask: tf.Tensor
    num_negatives: tf.Tensor
    finite: tf.Tensor
    student: ModelPairs
    teacher: ModelPairs


class PairMiner:
    """Mines a batch for its positives, hardest negatives and both models' thresholds.

    No gradient flows through any of it; a loss recomputes the mined pairs from their
    rows. Works eagerly, in a `tf.function` and under XLA, which needs a batch size
    known when tracing.

    Args:
        fprs: Floats in (0, 1), the false positive rates of the thresholds.
        num_negatives: Int > 0: how many of the negatives most similar for the student
            to mine.

    Reference:
        Huang et al., 2022, arXiv:2206.02325, section 3. TFace sorts all negatives of
        both models and takes element `num_negatives // 10**k`; this selects the same
        element (within 2^-23).
    """

    def __init__(self, fprs: Sequence[float] = DEFAULT_FPRS, num_negatives: int = 2000):
        if not len(fprs):
            raise ValueError("`fprs` must name at least one rate. Received: none")
        for fpr in fprs:
            check_range("fprs", fpr, 0, 1, low_open=True, high_open=True)
        check_range("num_negatives", num_negatives, 1)
        self.fprs = tuple(float(fpr) for fpr in fprs)
        self.num_negatives = int(num_negatives)

    def __call__(
        self,
        student: tf.Tensor,
        teacher: tf.Tensor,
        labels: tf.Tensor,
        image_ids: tf.Tensor | None = None,
        memory: Memory | None = None,
        with_thresholds: bool = True,
    ) -> MinedPairs:
        """Mines a batch.

        Args:
            student: Float tensor `(batch, student_dim)`, normalised here.
            teacher: Float tensor `(batch, teacher_dim)`, same images, same order.
            labels: Integer tensor `(batch,)`.
            image_ids: Integer tensor `(batch,)` naming the source image of each row,
                or None. Positive pairs of one source image are left out.
            memory: Its rows are numbered on from the batch's.
            with_thresholds: Whether to read the batch's own thresholds, for which the
                keys of all pairs are kept, 4 bytes each and model, and counted again.
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
        return self._mine(memory=memory, with_thresholds=with_thresholds, **batch)

    @compiled
    def _mine(
        self, student, teacher, labels, with_thresholds, image_ids=None, memory=None
    ):
        queries = num_rows(labels)
        student, student_finite = _unit_rows(student)
        teacher, teacher_finite = _unit_rows(teacher)
        if memory is not None:
            student = tf.concat([student, memory.student], axis=0)
            teacher = tf.concat([teacher, memory.teacher], axis=0)
            labels = tf.concat([labels, memory.labels], axis=0)
            if image_ids is not None:
                ids = tf.cast(memory.image_ids, image_ids.dtype)
                image_ids = tf.concat([image_ids, ids], axis=0)
        blocks = NegativeBlocks(labels, queries, (student, teacher))
        negative, cosines, histograms, keys = self._hardest(blocks, with_thresholds)
        thresholds = [None, None]
        if with_thresholds:
            thresholds = self._thresholds(blocks, histograms, keys)
        mask = cosines[0] > NO_PAIR
        models = [
            ModelPairs(gallery, tf.where(mask, mined, 0.0), histogram, of_batch)
            for gallery, mined, histogram, of_batch in zip(
                (student, teacher), cosines, histograms, thresholds
            )
        ]
        return MinedPairs(
            positive=positive_pairs(labels, queries, image_ids),
            negative=tf.where(mask[:, None], negative, 0),
            negative_mask=mask,
            num_negatives=tf.reduce_sum(histograms[0]),
            finite=student_finite & teacher_finite,
            student=models[0],
            teacher=models[1],
        )

    def _hardest(self, blocks, with_keys):
        """Finds the negatives most similar for the student and counts all.

        An entry among the k largest lies in one of the k groups with the largest
        maxima. So the groups are kept whose maxima are largest so far, and only their
        entries are compared in the end.

        Returns:
            `(pairs (num_mined, 2), [cosines (num_mined,)], [histogram], [keys])`, lists
            of both models; cosines fall for the student, `NO_PAIR` where there is no
            pair; `tf.TensorArray`s of each block's keys if `with_keys`.
        """
        num_kept = self.num_negatives
        single = isinstance(blocks.count, int) and blocks.count == 1
        if isinstance(blocks.count, int) and isinstance(blocks.num_groups, int):
            # Fewer groups exist where the batch is small.
            num_kept = min(num_kept, blocks.count * blocks.num_groups)

        def step(block, *carried):
            kept, histograms, keys = carried[:4], carried[4:6], carried[6:]
            cosines = blocks.cosines(block)
            of_block = [*cosines, *blocks.pairs(block)]
            maxima = tf.reduce_max(tf.concat([kept[0], cosines[0]], axis=0), axis=1)
            best = tf.math.top_k(maxima, num_kept, sorted=False).indices
            kept = [
                tf.gather(tf.concat([old, new], axis=0), best)
                for old, new in zip(kept, of_block)
            ]
            new_keys = [descending_keys(of_model) for of_model in cosines]
            histograms = [h + coarse_histogram(k) for h, k in zip(histograms, new_keys)]
            keys = [array.write(block, k) for array, k in zip(keys, new_keys)]
            return [*kept, *histograms, *keys]

        first = 0 if single else num_kept
        initial = [
            tf.fill([first, GROUP], NO_PAIR),
            tf.fill([first, GROUP], NO_PAIR),
            tf.zeros([first], tf.int32),
            tf.zeros([first, GROUP], tf.int32),
            *[tf.zeros([HISTOGRAM_BINS], tf.int32)] * 2,
            *(tf.TensorArray(tf.int32, blocks.count) for _ in range(2 * with_keys)),
        ]
        carried = blocks.scan(step, initial)
        student, teacher, queries, others = carried[:4]
        count = min(self.num_negatives, num_kept * GROUP)
        hardest, places = tf.math.top_k(tf.reshape(student, [-1]), count)
        of_teacher = tf.gather(tf.reshape(teacher, [-1]), places)
        rows = tf.gather(tf.reshape(others, [-1]), places)
        pairs = tf.stack([tf.gather(queries, places // GROUP), rows], axis=1)
        return pairs, [hardest, of_teacher], carried[4:6], carried[6:]

    def _thresholds(self, blocks, histograms, keys):
        """Returns both models' negatives at the ranks of the FPRs, float32."""
        ranks = ranks_of_fprs(tf.reduce_sum(histograms[0]), self.fprs)
        searches = [RankSearch(histogram, ranks) for histogram in histograms]

        def step(block, *counts):
            return [
                count + search.count(array.read(block))
                for count, search, array in zip(counts, searches, keys)
            ]

        counts = blocks.scan(step, [search.no_counts() for search in searches])
        return [search.cosines(count) for search, count in zip(searches, counts)]


def _unit_rows(embeddings):
    rows = l2_normalize(embeddings)
    # The sum of a unit row is finite where all its entries are.
    finite = tf.math.is_finite(tf.reduce_sum(rows, axis=1))
    return tf.where(finite[:, None], rows, 0.0), tf.reduce_all(finite)
