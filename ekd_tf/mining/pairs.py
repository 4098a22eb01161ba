"""The pairs of a step: queries against a gallery, visited block by block.

Every pair is a query, a row of the batch, with a gallery row: the batch itself and,
behind it, a memory of earlier batches if there is one. Rows of the memory pair with
queries and not with one another.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from collections.abc import Sequence

import tensorflow as tf

from ekd_tf.ops.numerics import num_rows

# Queries per block. A block of so many rows costs more than starting its operations,
# and its temporaries stay in the cache.
BLOCK_ROWS = 320
# Neighbouring entries of a block among which only the largest is looked at first.
GROUP = 16
# Positive pairs visited at a time: at most so many, and so many for each query. Two
# gathers of 2,048 rows of 512 entries take 8 MB.
MAX_CHUNK = 2048
CHUNK_PER_QUERY = 4
# Label of a gallery row that pairs with nothing.
NO_ROW = -(2**30)
# What stands for the cosine of two rows that are no negative pair: below any cosine.
NO_PAIR = -1.5


class NegativeBlocks:
    """Cuts all negative pairs into blocks of one shape, for a loop to visit.

    The queries are cut into n = 1, 3, 5, ... runs. A block is one run against itself,
    the (n - 1) / 2 runs behind it, with the first runs behind the last, and all of the
    memory. So any two runs meet once, and little more than half of all cosines of the
    batch is computed.

    Args:
        labels: Int32 tensor `(rows,)` of the gallery; `NO_ROW` where there is no row.
        num_queries: Int, or int32 scalar tensor: the first rows, which are the batch.
        galleries: Float32 tensors `(rows, dim)` of unit length, one per model.

    Attributes:
        count: Int or int32 scalar tensor, number of blocks.
        num_groups: Int or int32 scalar tensor, groups of `GROUP` columns per block.
    """

    def __init__(
        self,
        labels: tf.Tensor,
        num_queries: int | tf.Tensor,
        galleries: Sequence[tf.Tensor],
    ):
        rows = num_rows(labels)
        self.count = -(-num_queries // BLOCK_ROWS) // 2 * 2 + 1
        self._queries = num_queries
        self._height = -(-num_queries // self.count)
        self._turn = self._height * ((self.count + 1) // 2)
        width = self._turn + rows - num_queries
        self._filling = -width % GROUP
        self.num_groups = self._height * ((width + self._filling) // GROUP)
        self._labels = self._unrolled(labels, NO_ROW)
        self._rows = self._unrolled(tf.range(rows), -1)
        self._galleries = [self._unrolled(gallery) for gallery in galleries]

    def _unrolled(self, rows, filling=0):
        """Returns a function of a block number: the rows at the block's columns."""
        dims = list(rows.shape[1:])
        more = [[0, 0]] * len(dims)
        batch, memory = rows[: self._queries], rows[self._queries :]
        missing = self._height * self.count - self._queries
        batch = tf.pad(batch, [[0, missing], *more], constant_values=filling)
        # Behind the last run the first ones again.
        batch = tf.concat([batch, batch[: self._turn - self._height]], axis=0)
        memory = tf.pad(memory, [[0, self._filling], *more], constant_values=filling)

        def columns(block):
            # Not by `batch[i:j]`, whose length XLA does not know.
            first = [block * self._height] + [0] * len(dims)
            turn = tf.slice(batch, first, [self._turn, *dims])
            return tf.concat([turn, memory], axis=0)

        return columns

    def pairs(self, block: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the query of each group of a block, int32 `(num_groups,)`, and the
        other row of each entry, int32 `(num_groups, GROUP)`."""
        columns = self._rows(block)
        groups = tf.reshape(columns, [-1, GROUP])
        queries = tf.repeat(columns[: self._height], num_rows(groups))
        return queries, tf.tile(groups, [self._height, 1])

    def cosines(self, block: tf.Tensor) -> list[tf.Tensor]:
        """Returns the cosines of a block, float32 `(num_groups, GROUP)` per model,
        `NO_PAIR` where there is no negative pair."""
        labels = self._labels(block)
        row_labels = labels[: self._height]
        # In the run that meets itself a row meets those behind it.
        column = tf.range(num_rows(labels))
        negative = (
            (labels[None, :] != row_labels[:, None])
            & (labels != NO_ROW)[None, :]
            & (row_labels != NO_ROW)[:, None]
            & (column[None, :] > column[: self._height, None])
        )
        cosines = []
        for columns in (columns_at(block) for columns_at in self._galleries):
            products = tf.matmul(columns[: self._height], columns, transpose_b=True)
            products = tf.where(negative, products, NO_PAIR)
            cosines.append(tf.reshape(products, [-1, GROUP]))
        return cosines

    def scan(self, step: Callable, initial: list) -> list:
        """Visits all blocks in turn, so that one block's temporaries exist at once.

        Args:
            step: Maps a block number and the carried tensors to a list of new ones.
            initial: List of tensors, carried into the first block.
        """
        if isinstance(self.count, int) and self.count == 1:
            # A loop costs a small batch dearly.
            return list(step(tf.constant(0), *initial))
        _, *carried = tf.while_loop(
            lambda block, *carried: block < self.count,
            lambda block, *carried: (block + 1, *step(block, *carried)),
            (tf.constant(0), *initial),
            parallel_iterations=1,
        )
        return carried


class PositivePairs(typing.NamedTuple):
    """Every pair of one identity, numbered from 0, without a list of them.

    How many there are is known only when running, while XLA wants static shapes and
    would reserve room for all pairs of rows. So the pairs are described by the rows in
    order of identity, and `pairs_at` works any of them out from its number.

    Attributes:
        order: Int32 `(rows,)`, row numbers sorted by label, of one label the queries
            first, then by source image.
        first_partner: Int32 `(rows,)`, for each sorted row the place in `order` of
            its first partner; the others follow it.
        first_number: Int32 `(rows,)`, number of each sorted row's first pair.
        num_pairs: Int32 scalar.
    """

    order: tf.Tensor
    first_partner: tf.Tensor
    first_number: tf.Tensor
    num_pairs: tf.Tensor


def positive_pairs(
    labels: tf.Tensor,
    num_queries: int | tf.Tensor,
    image_ids: tf.Tensor | None = None,
) -> PositivePairs:
    """Numbers every pair of one identity, of which one row at least is a query.

    Args:
        labels: Int32 tensor `(rows,)` of the gallery, below 2^30, or `NO_ROW`.
        num_queries: Int, or int32 scalar tensor: the first rows, which are the batch.
        image_ids: Integer tensor `(rows,)` naming the source image of each row, or
            None. Two rows of one source image are no pair. Only the low 32 bits are
            compared.
    """
    rows = tf.range(num_rows(labels))
    identities = 2 * tf.cast(labels, tf.int64) + tf.cast(rows >= num_queries, tf.int64)
    images = rows if image_ids is None else image_ids
    keys = tf.bitwise.left_shift(identities, tf.constant(32, tf.int64))
    keys += tf.cast(images, tf.int64) & 0xFFFFFFFF
    order = tf.argsort(keys)
    keys = tf.gather(keys, order)
    in_order = tf.gather(labels, order)
    # Rows of one source image are neighbours: the first partner comes after them.
    first_partner = tf.searchsorted(keys, keys, side="right")
    num_partners = tf.searchsorted(in_order, in_order, side="right") - first_partner
    num_partners = tf.where(order < num_queries, num_partners, 0)
    return PositivePairs(
        order=order,
        first_partner=first_partner,
        first_number=tf.cumsum(num_partners, exclusive=True),
        num_pairs=tf.reduce_sum(num_partners),
    )


def pairs_at(pairs: PositivePairs, numbers: tf.Tensor) -> tf.Tensor:
    """Returns the pairs of these numbers in [0, num_pairs): int32 `(k, 2)`, a query
    and a gallery row."""
    place = tf.searchsorted(pairs.first_number, numbers, side="right") - 1
    partner = tf.gather(pairs.first_partner, place)
    partner += numbers - tf.gather(pairs.first_number, place)
    return tf.gather(pairs.order, tf.stack([place, partner], axis=1))


def pair_similarity(
    queries: tf.Tensor, gallery: tf.Tensor, pairs: tf.Tensor
) -> tf.Tensor:
    """Returns the cosines of listed pairs, float32 `(num_pairs,)`.

    Only the listed rows are read, and of them the queries alone receive a gradient.

    Args:
        queries: Float32 `(num_queries, dim)` of unit length.
        gallery: Float32 `(rows, dim)`: the queries, and the memory behind them.
        pairs: Int32 `(num_pairs, 2)`: a query and a gallery row.
    """

    # The gradient of `tf.gather` is sparse, and making it dense warns (and copies)
    # when the batch size is unknown while tracing.
    @tf.custom_gradient
    def similarity(queries):
        left = tf.gather(queries, pairs[:, 0])
        right = tf.gather(gallery, pairs[:, 1])

        def gradient(upstream):
            rows = num_rows(queries)
            # Negative numbers are left out.
            of_right = tf.where(pairs[:, 1] < rows, pairs[:, 1], -1)
            upstream = upstream[:, None]
            return tf.math.unsorted_segment_sum(
                upstream * right, pairs[:, 0], rows
            ) + tf.math.unsorted_segment_sum(upstream * left, of_right, rows)

        return tf.reduce_sum(left * right, axis=-1), gradient

    return similarity(queries)


def sum_over_positives(
    function: Callable,
    queries: tf.Tensor,
    student: tf.Tensor,
    teacher: tf.Tensor,
    pairs: PositivePairs,
    thresholds: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Sums a function of both models' cosines over all positive pairs.

    Visits the pairs in chunks of static size, so that memory does not grow with their
    number (a batch of one identity has batch^2 / 2) and XLA compiles it. Values and
    gradients are found in one visit.

    Args:
        function: Maps the student's and the teacher's cosines, float32 `(chunk,)`, and
            `thresholds` to values `(chunk,)` and counts `(chunk, columns)`, float32.
        queries: Float32 `(num_queries, student_dim)` of unit length.
        student, teacher: Float32 `(rows, dim)`, the galleries.
        pairs: All of them are visited.
        thresholds: Float32 tensor of any shape, given to `function`.

    Returns:
        The sum of the values, float32 scalar, whose gradient reaches `queries` and
        `thresholds` alone; the sums of the counts, float32 `(columns,)`, without
        gradient. Zeros with a zero gradient without positive pairs.
    """
    chunk, rows, num_queries = MAX_CHUNK, num_rows(teacher), num_rows(queries)
    if isinstance(rows, int) and isinstance(num_queries, int):
        chunk = min(chunk, rows, CHUNK_PER_QUERY * num_queries)
    # The loop finds its own gradients; nothing else is to differentiate it.
    student, teacher = tf.stop_gradient(student), tf.stop_gradient(teacher)

    @tf.custom_gradient
    def total_sum(queries, thresholds):
        sources = [tf.stop_gradient(queries), tf.stop_gradient(thresholds)]

        def visit(start, total, counts, *gradients):
            numbers = start + tf.range(chunk)
            # Beyond the last pair the last again.
            listed = pairs_at(pairs, tf.minimum(numbers, pairs.num_pairs - 1))
            counted = tf.cast(numbers < pairs.num_pairs, tf.float32)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(sources)
                values, columns = function(
                    pair_similarity(sources[0], student, listed),
                    pair_similarity(teacher, teacher, listed),
                    sources[1],
                )
                value = tf.reduce_sum(values * counted)
            zero = tf.UnconnectedGradients.ZERO
            found = tape.gradient(value, sources, unconnected_gradients=zero)
            counts += tf.reduce_sum(columns * counted[:, None], axis=0)
            gradients = [old + new for old, new in zip(gradients, found)]
            return start + chunk, total + value, counts, *gradients

        _, columns = function(tf.zeros([1]), tf.zeros([1]), sources[1])
        initial = [tf.constant(0), tf.constant(0.0), tf.zeros([columns.shape[1]])]
        _, total, counts, *gradients = tf.while_loop(
            lambda start, *_: start < pairs.num_pairs,
            visit,
            (*initial, *(tf.zeros_like(source) for source in sources)),
            parallel_iterations=1,
        )
        return (total, counts), lambda of_total, _: [of_total * g for g in gradients]

    return total_sum(queries, thresholds)
