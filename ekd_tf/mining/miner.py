"""Finds the positive pairs of a batch and the student's hardest negative ones.

A verifier accepts a pair whose cosine exceeds a threshold, and the threshold is set by
the false positives one allows. So for each model the thresholds are the quantiles of
its negative cosines at given FPRs, a pair's rank is the number of thresholds its cosine
exceeds, and a pair is critical where the ranks of the two models differ: those pairs
alone make the models' TPR and FPR differ. They are among those found here, which the
loss ranks.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable
from collections.abc import Sequence

import tensorflow as tf

from ekd_tf.checks import check_range
from ekd_tf.checks import check_whole
from ekd_tf.mining.order_statistics import NO_PAIR
from ekd_tf.mining.order_statistics import bins_of
from ekd_tf.mining.order_statistics import count_bins
from ekd_tf.mining.order_statistics import order_statistics
from ekd_tf.mining.order_statistics import positions_of_fprs
from ekd_tf.ops.numerics import l2_normalize
from ekd_tf.ops.numerics import num_rows

DEFAULT_FPRS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
# Label of an extra row that pairs with nothing.
NO_ROW = -(2**30)
# Queries whose cosines are computed at a time, with the rows behind them alone.
BLOCK_ROWS = 256
# Gradients of pairs go through a matrix of all pairs up to so many entries, 160 rows by
# 9,000 centres: 16 ms in place of 21 for the default loss of 160 rows, on one core.
MAX_DENSE_ENTRIES = 1_500_000


class ExtraRows(typing.NamedTuple):
    """Rows behind the batch in the gallery: of earlier batches, or class centres.

    Student and teacher: float32 `(rows, dim)`, of unit length. Labels: int32 `(rows,)`,
    `NO_ROW` where there is none. An earlier batch's must be of no image of this one.
    """

    student: tf.Tensor
    teacher: tf.Tensor
    labels: tf.Tensor

    def behind(self, *batch: tf.Tensor) -> list[tf.Tensor]:
        """Returns student, teacher, labels and image ids of a batch and of these."""
        rows = *self, tf.fill(tf.shape(self.labels), NO_ROW)
        return [tf.concat(columns, axis=0) for columns in zip(batch, rows)]


class Pairs(typing.NamedTuple):
    """Pairs of a query, a row of the batch, with a row of the gallery.

    Rows: int32 `(num_pairs, 2)`. Student and teacher: float32 `(num_pairs,)`, their
    cosines, without gradient.
    """

    rows: tf.Tensor
    student: tf.Tensor
    teacher: tf.Tensor


class ModelPairs(typing.NamedTuple):
    """What one model says of all pairs, without gradient.

    Attributes:
        gallery: Float32 `(rows, dim)`, the batch's embeddings of unit length, the
            extra rows behind them. A row that is not finite is zero here: a forward
            pass that overflowed spoils no count.
        histogram: Int32 `(4097,)`, all negatives counted in bins of width 2^-11,
            highest cosine first.
        thresholds: Float32 `(num_fprs,)`, cosine of the batch's negative at place
            floor(total_negatives * fpr), undefined without negative pairs; or None.
    """

    gallery: tf.Tensor
    histogram: tf.Tensor
    thresholds: tf.Tensor | None


class MinedPairs(typing.NamedTuple):
    """The pairs of one batch.

    Attributes:
        positive: Every positive pair.
        negative: The negatives most similar for the student, hardest first.
        total_negatives: Int32 scalar, all negative pairs, mined or not.
        finite: Bool scalar, whether all embeddings are.
        student, teacher: The two models.
    """

    positive: Pairs
    negative: Pairs
    total_negatives: tf.Tensor
    finite: tf.Tensor
    student: ModelPairs
    teacher: ModelPairs


def traced_when_eager(method: Callable, **options: typing.Any) -> Callable:
    """Makes a method of hundreds of operations a `tf.function` with these options.

    Not inside a trace, where it helps nothing and TensorFlow would trace its gradient
    several times: a third of what tracing a distillation step took.
    """
    function = tf.function(method, autograph=False, **options)

    @functools.wraps(method)
    def call(self, *args, **kwargs):
        if tf.inside_function():
            return method(self, *args, **kwargs)
        return function.__get__(self, type(self))(*args, **kwargs)

    return call


class PairMiner:
    """Mines a batch for its positives, hardest negatives and both models' thresholds.

    Under XLA the batch size must be known when tracing (and that of TensorFlow 2.15
    takes up to `MAX_DENSE_ENTRIES` pairs). Where it is unknown the cosines of all pairs
    exist at once.

    Args:
        fprs: Floats in (0, 1), the false positive rates of the thresholds.
        num_negatives: Int > 0: how many of the negatives most similar for the student
            to mine.

    Reference:
        Huang et al., 2022, arXiv:2206.02325, section 3. TFace sorts all negatives of
        both models and takes element `num_negatives // 10**k`; this takes the same.
    """

    def __init__(self, fprs: Sequence[float] = DEFAULT_FPRS, num_negatives: int = 2000):
        if not len(fprs):
            raise ValueError("`fprs` must name at least one rate. Received: none")
        for fpr in fprs:
            check_range("fprs", fpr, 0, 1, low_open=True, high_open=True)
        self.fprs = tuple(float(fpr) for fpr in fprs)
        self.num_negatives = check_whole("num_negatives", num_negatives, 1)

    @traced_when_eager
    def __call__(
        self,
        student: tf.Tensor,
        teacher: tf.Tensor,
        labels: tf.Tensor,
        image_ids: tf.Tensor | None = None,
        extra: ExtraRows | None = None,
        with_thresholds: bool = True,
    ) -> MinedPairs:
        """Mines a batch, given without gradient.

        Args:
            student: Float32 `(batch, student_dim)`, normalised here.
            teacher: Float32 `(batch, teacher_dim)`, same images, same order.
            labels: Int32 `(batch,)`.
            image_ids: Int32 `(batch,)` naming the source image of each row, or None.
                Positive pairs of one source image are left out.
            extra: Their rows are numbered on from the batch's.
            with_thresholds: Whether to read the batch's own thresholds.
        """
        queries = num_rows(labels)
        student, student_finite = _unit_rows(student)
        teacher, teacher_finite = _unit_rows(teacher)
        # Each row is one image unless ids say otherwise.
        images = tf.range(queries) if image_ids is None else image_ids
        if extra is not None:
            rows = extra.behind(student, teacher, labels, images)
            student, teacher, labels, images = rows
        heights = [queries]
        if isinstance(queries, int):
            starts = range(0, queries, BLOCK_ROWS)
            heights = [min(BLOCK_ROWS, queries - start) for start in starts]
        blocks = [
            self._mine_block(student, teacher, labels, images, k * BLOCK_ROWS, height)
            for k, height in enumerate(heights)
        ]
        positive, negative, *model_cosines = zip(*blocks)
        models = []
        for gallery, cosines in zip((student, teacher), model_cosines):
            histogram = tf.add_n([count_bins(bins_of(block)) for block in cosines])
            thresholds = None
            if with_thresholds:
                positions = positions_of_fprs(tf.reduce_sum(histogram), self.fprs)
                thresholds = order_statistics(cosines, histogram, positions)
            models.append(ModelPairs(gallery, histogram, thresholds))
        total_negatives = tf.reduce_sum(models[0].histogram)
        return MinedPairs(
            positive=join(positive),
            negative=self._hardest(join(negative), total_negatives),
            total_negatives=total_negatives,
            finite=student_finite & teacher_finite,
            student=models[0],
            teacher=models[1],
        )

    def _mine_block(self, student, teacher, labels, images, start, height):
        """Pairs `height` rows with all rows behind each of them.

        Returns all positive and the hardest negative `Pairs`, and the student's and the
        teacher's cosines, float32 `(n,)`, `NO_PAIR` where there is no negative pair.
        """
        student, teacher = student[start:], teacher[start:]
        labels, images = labels[start:], images[start:]
        student_cosines = tf.matmul(student[:height], student, transpose_b=True)
        teacher_cosines = tf.matmul(teacher[:height], teacher, transpose_b=True)
        width = num_rows(labels)
        place = tf.range(width)
        exists = (place[None, :] > place[:height, None]) & (labels != NO_ROW)[None, :]
        same = labels[:height, None] == labels[None, :]
        other_image = images[:height, None] != images[None, :]
        rows = tf.where(exists & same & other_image)
        positive = Pairs(
            rows=tf.cast(rows, tf.int32) + start,
            student=tf.gather_nd(student_cosines, rows),
            teacher=tf.gather_nd(teacher_cosines, rows),
        )
        negative = exists & ~same
        student_cosines = tf.reshape(tf.where(negative, student_cosines, NO_PAIR), [-1])
        teacher_cosines = tf.reshape(tf.where(negative, teacher_cosines, NO_PAIR), [-1])
        count = tf.minimum(self.num_negatives, tf.size(student_cosines))
        hardest, places = tf.math.top_k(student_cosines, count)
        hardest = Pairs(
            rows=tf.stack([places // width, places % width], axis=1) + start,
            student=hardest,
            teacher=tf.gather(teacher_cosines, places),
        )
        return positive, hardest, student_cosines, teacher_cosines

    def _hardest(self, pairs, total_negatives):
        """Returns the hardest of all blocks' hardest, without entries of no pair."""
        count = tf.minimum(self.num_negatives, tf.size(pairs.student))
        places = tf.math.top_k(pairs.student, count).indices
        # They come last. (XLA finds none where the cosines themselves are compared.)
        places = tf.boolean_mask(places, tf.range(count) < total_negatives)
        return Pairs(*(tf.gather(values, places) for values in pairs))


def _unit_rows(embeddings):
    rows = l2_normalize(embeddings)
    # The sum of a unit row is finite where all its entries are.
    finite = tf.math.is_finite(tf.reduce_sum(rows, axis=1))
    return tf.where(finite[:, None], rows, 0.0), tf.reduce_all(finite)


def join(parts: Sequence[Pairs]) -> Pairs:
    """Returns several `Pairs` as one."""
    return Pairs(*(tf.concat(columns, axis=0) for columns in zip(*parts)))


def with_gradient(queries: tf.Tensor, gallery: tf.Tensor, pairs: Pairs) -> tf.Tensor:
    """Returns the student's cosines of pairs, with their gradient to the queries.

    The cosines are those that were mined: none is computed again, and the backward pass
    visits the listed pairs alone.

    Args:
        queries: Float32 `(batch, dim)`, the batch's rows of unit length.
        gallery: Float32 `(rows, dim)`, the same rows, and extra ones, which receive no
            gradient.
        pairs: Pairs of the two.
    """
    batch, rows = num_rows(queries), num_rows(gallery)
    known = isinstance(batch, int) and isinstance(rows, int)

    @tf.custom_gradient
    def cosines(queries):
        def gradient(upstream):
            # Either row of a pair moves along the other, but for an extra row.
            both = tf.concat([pairs.rows, tf.reverse(pairs.rows, axis=[1])], axis=0)
            moved, along = tf.unstack(both, axis=1)
            slopes = tf.concat([upstream, upstream], axis=0)
            slopes = tf.where(moved < batch, slopes, 0.0)
            moved = tf.where(moved < batch, moved, 0)
            if known and batch * rows <= MAX_DENSE_ENTRIES:
                entries = tf.stack([moved, along], axis=1)
                return tf.matmul(tf.scatter_nd(entries, slopes, [batch, rows]), gallery)
            steps = tf.expand_dims(slopes, 1) * tf.gather(gallery, along)
            return tf.math.unsorted_segment_sum(steps, moved, batch)

        return tf.identity(pairs.student), gradient

    return cosines(queries)
