"""The cosines of all negative pairs of a batch, visited block by block."""

import tensorflow as tf

from ekd_tf.ops.blocks import scan_blocks
from ekd_tf.ops.numerics import num_rows
from ekd_tf.ops.ranking import HISTOGRAM_BINS
from ekd_tf.ops.ranking import NO_PAIR
from ekd_tf.ops.ranking import coarse_histogram
from ekd_tf.ops.ranking import descending_keys
from ekd_tf.ops.ranking import take_groups

# Columns per group in the search for the largest cosines.
GROUP = 32
# A block of so many rows costs more than starting its operations, and its temporaries
# stay in the cache.
BLOCK_ROWS = 320


class NegativePairs:
    """Where the negative pairs of a batch are: an odd number of blocks in a circle.

    The batch is cut into n = 1, 3, 7, 15, ... runs of rows. Each run meets itself and
    the (n - 1) / 2 runs that follow it, beyond the last one the first again. So any two
    runs meet once, little more than half of all cosines is computed, and all blocks
    have one shape, `(rows, rows * (n + 1) / 2)`: a loop may visit them.

    Blocks are stored as groups of `GROUP` consecutive columns. Entries that are no
    negative pair hold `NO_PAIR`. Positions count entries from the first block's first.

    Args:
        labels: Int32 tensor `(batch,)`.
        block_rows: Int or None: rows of a run at most (but for filling rows).

    Attributes:
        num_blocks: Int, or int32 scalar tensor for a batch size unknown while tracing.
        num_groups: Int or int32 scalar tensor, groups per block.

    Raises:
        ValueError: A batch, of a size known while tracing, has more pairs than int32
            counts: about 65,000 rows.
    """

    def __init__(self, labels, block_rows=None):
        block_rows = block_rows or BLOCK_ROWS
        batch = labels.shape[0]
        if batch is None:
            batch, maximum = tf.shape(labels)[0], tf.maximum
            blocks = tf.constant(1)
            # As many doublings as int32 positions have room for.
            for _ in range(16):
                enough = blocks * block_rows >= batch
                blocks = tf.where(enough, blocks, 2 * blocks + 1)
        else:
            maximum = max
            blocks = 1
            while blocks * block_rows < batch:
                blocks = 2 * blocks + 1
        runs = (blocks + 1) // 2
        # Rows until a block's width is a whole number of groups.
        step = maximum(GROUP // runs, 1)
        self._batch = batch
        self._rows = maximum(-(-batch // (blocks * step)), 1) * step
        self._width = self._rows * runs
        self._padded = self._rows * blocks
        if isinstance(batch, int) and self._padded * self._width > tf.int32.max:
            raise ValueError(
                "`labels` must have so few rows that int32 counts their pairs, about "
                f"65,000. Received: {batch} rows"
            )
        self.num_blocks = blocks
        self.num_groups = self._rows * self._width // GROUP
        self._labels = self._circle(labels[:, None])[:, 0]

    def _circle(self, tensor):
        """Appends filling rows, and the first rows again behind the last."""
        tensor = tf.pad(tensor, [[0, self._padded - self._batch], [0, 0]])
        return tf.concat([tensor, tensor[: self._width - self._rows]], axis=0)

    def reader(self, embeddings):
        """Returns a function of a block number that computes the block's cosines.

        Args:
            embeddings: Float32 tensor `(batch, dim)` of unit length.

        Returns:
            Function of an int32 scalar that returns float32 `(num_groups, GROUP)`.
        """
        circle = self._circle(embeddings)

        def read(block):
            first = block * self._rows
            columns = tf.slice(circle, [first, 0], [self._width, circle.shape[1]])
            labels = tf.slice(self._labels, [first], [self._width])
            rows, row_labels = columns[: self._rows], labels[: self._rows]
            cosines = tf.matmul(rows, columns, transpose_b=True)

            # In the run that meets itself a row meets those behind it. A filling row
            # stands behind all columns, a filling column before all rows.
            place = tf.range(self._width)
            real = (first + place) % self._padded < self._batch
            column_place = tf.where(real, place, 0)
            row_place = tf.where(real, place, self._width)[: self._rows]
            negative = (row_labels[:, None] != labels[None, :]) & (
                column_place[None, :] > row_place[:, None]
            )
            return tf.reshape(tf.where(negative, cosines, NO_PAIR), [-1, GROUP])

        return read

    def pairs_at(self, positions):
        """Turns positions into pairs of rows i < j, int32 `(k, 2)`."""
        block = positions // (self._rows * self._width)
        inside = positions % (self._rows * self._width)
        row = block * self._rows + inside // self._width
        column = (block * self._rows + inside % self._width) % self._padded
        return tf.stack([tf.minimum(row, column), tf.maximum(row, column)], axis=1)


class NegativePairsOfQueries:
    """Where the negative pairs of a batch and of a memory behind it are.

    Each row of the batch meets the rows behind it and all of the memory. A block is
    all rows of the batch and a run of columns. Blocks, entries and positions are those
    of `NegativePairs`.

    Args:
        labels: Int32 tensor `(batch + memory,)`; -1 in the memory: no row.
        num_queries: Int, or int32 scalar tensor: rows of the batch.

    Attributes:
        num_blocks: Int or int32 scalar tensor.
        num_groups: Int or int32 scalar tensor, groups per block.

    Raises:
        ValueError: More pairs, of sizes known while tracing, than int32 counts.
    """

    def __init__(self, labels, num_queries):
        rows = num_rows(labels)
        known = isinstance(rows, int) and isinstance(num_queries, int)
        maximum = max if known else tf.maximum
        # As few blocks as have the size of those of `NegativePairs` at most, all alike.
        groups = -(-rows // GROUP)
        most = maximum(2 * BLOCK_ROWS**2 // maximum(num_queries, 1) // GROUP, 1)
        width = GROUP * -(-groups // -(-groups // most))
        self._rows, self._queries, self._width = rows, num_queries, width
        self.num_blocks = -(-rows // width)
        self.num_groups = num_queries * (width // GROUP)
        if known and self.num_blocks * width * num_queries > tf.int32.max:
            raise ValueError(
                "Rows of the batch times those of batch and memory must fit int32. "
                f"Received: {num_queries} rows, {rows} with the memory"
            )
        self._labels = self._padded(labels[:, None])[:, 0]

    def _padded(self, tensor):
        filling = self.num_blocks * self._width - self._rows
        return tf.pad(tensor, [[0, filling], [0, 0]])

    def reader(self, embeddings):
        """Returns a function of a block number that computes the block's cosines.

        Args:
            embeddings: Float32 tensor `(batch + memory, dim)` of unit length.

        Returns:
            Function of an int32 scalar that returns float32 `(num_groups, GROUP)`.
        """
        queries, gallery = embeddings[: self._queries], self._padded(embeddings)
        row_labels, row_place = self._labels[: self._queries], tf.range(self._queries)

        def read(block):
            first = block * self._width
            columns = tf.slice(gallery, [first, 0], [self._width, gallery.shape[1]])
            labels = tf.slice(self._labels, [first], [self._width])
            place = first + tf.range(self._width)
            real = (place < self._queries) | ((place < self._rows) & (labels >= 0))
            negative = (
                real[None, :]
                & (row_labels[:, None] != labels[None, :])
                & (place[None, :] > row_place[:, None])
            )
            cosines = tf.matmul(queries, columns, transpose_b=True)
            return tf.reshape(tf.where(negative, cosines, NO_PAIR), [-1, GROUP])

        return read

    def pairs_at(self, positions):
        """Turns positions into pairs of rows i < j, int32 `(k, 2)`."""
        inside = positions % (self._queries * self._width)
        block = positions // (self._queries * self._width)
        column = block * self._width + inside % self._width
        return tf.stack([inside // self._width, column], axis=1)


def survey(negatives, read, with_maxima, keep):
    """Visits all blocks for the first time.

    Args:
        negatives: `NegativePairs` or `NegativePairsOfQueries`.
        read: Its `reader` of one model's embeddings.
        with_maxima: Bool: whether to return the maxima.
        keep: Bool: whether blocks stay in memory. Otherwise reading a block again
            computes it again.

    Returns:
        `(histogram (4097,), maxima (total number of groups,), read)`: all cosines
        counted coarsely, int32; the largest cosine of each group, or None; and the
        function to read blocks with from here on.
    """
    count = negatives.num_groups
    count = count if isinstance(count, int) else None

    def blocks_of(*shape):
        return tf.TensorArray(
            tf.float32,
            size=negatives.num_blocks,
            element_shape=shape,
            clear_after_read=False,
        )

    def step(block, histogram, kept, maxima):
        cosines = read(block)
        histogram += coarse_histogram(descending_keys(cosines))
        if with_maxima:
            maxima = maxima.write(block, tf.reduce_max(cosines, axis=1))
        if keep:
            kept = kept.write(block, cosines)
        return histogram, kept, maxima

    initial = [
        tf.zeros([HISTOGRAM_BINS], tf.int32),
        blocks_of(count, GROUP),
        blocks_of(count),
    ]
    histogram, kept, maxima = scan_blocks(step, negatives.num_blocks, initial)
    return (
        histogram,
        tf.reshape(maxima.stack(), [-1]) if with_maxima else None,
        kept.read if keep else read,
    )


def look_up(negatives, read, search, groups):
    """Visits all blocks for the second time.

    Args:
        negatives: As given to `survey`.
        read: What `survey` returned to read blocks with.
        search: `RankSearch`, or None.
        groups: Int32 tensor `(k,)`, numbers of the groups to fetch.

    Returns:
        `(cosines (num_ranks,), entries (k, GROUP))`: the order statistics `search`
        looks for, float32, or None; and the groups, filled with `NO_PAIR` beyond the
        last.
    """

    def step(block, found, *counts):
        cosines = read(block)
        first = block * negatives.num_groups
        found = take_groups(found, groups, cosines, first)
        keys = [descending_keys(cosines) for _ in counts]
        return found, *(c + search.count(k) for c, k in zip(counts, keys))

    found = tf.fill([groups.shape[0], GROUP], NO_PAIR)
    counts = [] if search is None else [search.no_counts()]
    found, *counts = scan_blocks(step, negatives.num_blocks, [found, *counts])
    return search.cosines(counts[0]) if counts else None, found
