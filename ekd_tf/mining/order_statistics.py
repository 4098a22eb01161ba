"""Order statistics of many cosines by counting, not by sorting.

A cosine becomes a whole number, its key, that counts steps of 2^-23. Keys are counted
in coarse bins; which of these hold the wanted ranks is then known, and a second count
in the fine bins of those alone gives the very element that a sort would have there.
Pairs come in blocks whose counts add up. Every shape is static where the batch is, so
XLA compiles it.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from ekd_tf.mining.pairs import NO_PAIR

# Keys count steps of 2^-23 (one float32 step just above 1, two just below) down from
# slightly above 1, since rounding lets the cosine of a row with itself exceed 1.
KEY_SCALE = 2.0**23
KEY_TOP = 1.0 + 2.0**-16
# The upper bits of a key are its coarse bin, of width 2^-11, the lower its fine one.
FINE_BITS = 12
FINE_BINS = 1 << FINE_BITS
# Cosine -1 falls into bin 4096: one more bin than 2^12.
HISTOGRAM_BINS = FINE_BINS + 1
# The bin of entries that are no pair lies beyond the histogram and is not counted.
_NO_PAIR_BIN = int((KEY_TOP - NO_PAIR) * KEY_SCALE) >> FINE_BITS
_RUN = 64


def ranks_of_fprs(num_negatives: tf.Tensor, fprs: Sequence[float]) -> tf.Tensor:
    """Returns floor(num_negatives * fpr) for each FPR, int32, in exact integers.

    An FPR that is one over a whole number divides by it, as the reference
    implementation does; a product of floats would fall one short now and then.
    """
    ranks = []
    for fpr in fprs:
        divisor = round(1.0 / fpr)
        if abs(1.0 / fpr - divisor) < 1e-9 * divisor:
            ranks.append(num_negatives // divisor)
        else:
            product = tf.cast(num_negatives, tf.float64) * fpr
            ranks.append(tf.cast(tf.floor(product), num_negatives.dtype))
    return tf.cast(tf.stack(ranks), tf.int32)


def descending_keys(cosines: tf.Tensor) -> tf.Tensor:
    """Returns int32 keys `(n,)` that grow as cosines (or `NO_PAIR`) fall, by 2^-23."""
    return tf.cast(tf.reshape((KEY_TOP - cosines) * KEY_SCALE, [-1]), tf.int32)


def _count(bins, size):
    """Counts int32 bins below `size`; those beyond are dropped."""
    # `tf.math.bincount` derives its size from the data, which XLA cannot compile.
    return tf.raw_ops.DenseBincount(
        input=bins, size=size, weights=tf.constant([], tf.int32), binary_output=False
    )


def coarse_histogram(keys: tf.Tensor) -> tf.Tensor:
    """Counts `descending_keys` in bins of width 2^-11, int32 `(HISTOGRAM_BINS,)`."""
    return _count(tf.bitwise.right_shift(keys, FINE_BITS), HISTOGRAM_BINS)


class RankSearch:
    """Reads order statistics off by counting: element `rank` of a descending sort.

    The histogram tells in which coarse bin each rank lies. `count` then counts the keys
    of those bins alone, finely, and `cosines` reads the ranks off the sum of the counts
    of all blocks.

    Args:
        histogram: The sum of `coarse_histogram` over all blocks.
        ranks: Int32 tensor `(k,)`, 0-based, each below the number of pairs. A rank
            beyond it gives an undefined cosine.
    """

    def __init__(self, histogram: tf.Tensor, ranks: tf.Tensor):
        self._num_ranks = ranks.shape[0]
        cumulative = tf.cumsum(histogram)
        self._coarse = tf.minimum(
            tf.searchsorted(cumulative, ranks, side="right"), HISTOGRAM_BINS - 1
        )
        self._inside = ranks - tf.gather(cumulative - histogram, self._coarse)
        # Each coarse bin that holds a rank gets a slot of fine bins; ranks in one bin
        # have one slot. All other keys go to slot `num_ranks`, which is not counted.
        # The table turns `bin, low bits` into `slot, low bits` by exclusive or.
        slot_of_bin = tf.tensor_scatter_nd_min(
            tf.fill([_NO_PAIR_BIN + 1], self._num_ranks),
            self._coarse[:, None],
            tf.range(self._num_ranks),
        )
        self._change = tf.bitwise.left_shift(
            tf.bitwise.bitwise_xor(slot_of_bin, tf.range(_NO_PAIR_BIN + 1)), FINE_BITS
        )
        self._slot_of_rank = tf.gather(slot_of_bin, self._coarse)

    def no_counts(self) -> tf.Tensor:
        """Returns the counts of no block at all, int32 `(k * FINE_BINS,)`."""
        return tf.zeros([self._num_ranks * FINE_BINS], tf.int32)

    def count(self, keys: tf.Tensor) -> tf.Tensor:
        """Counts the keys of one block, int32 `(k * FINE_BINS,)`."""
        bins = tf.bitwise.right_shift(keys, FINE_BITS)
        fine_keys = tf.bitwise.bitwise_xor(keys, tf.gather(self._change, bins))
        return _count(fine_keys, self._num_ranks * FINE_BINS)

    def cosines(self, counts: tf.Tensor) -> tf.Tensor:
        """Returns the cosines, float32 `(k,)`, within 2^-23 of those a sort gives."""
        counts = tf.reshape(counts, [self._num_ranks, FINE_BINS])
        counts = tf.gather(counts, self._slot_of_rank)
        steps = self._coarse * FINE_BINS + _bins_of_ranks(counts, self._inside)
        return KEY_TOP - (tf.cast(steps, tf.float32) + 0.5) / KEY_SCALE


def _bins_of_ranks(counts, ranks):
    """Returns the bin that holds the entry at each rank, one histogram per rank."""
    # First the run of bins, then the bin: running sums over all bins take 1.4 ms.
    runs = tf.reshape(counts, [ranks.shape[0], -1, _RUN])
    cumulative = tf.cumsum(tf.reduce_sum(runs, axis=2), axis=1)
    passed = tf.cast(cumulative <= ranks[:, None], tf.int32)
    run = tf.minimum(tf.reduce_sum(passed, axis=1), FINE_BINS // _RUN - 1)
    before = tf.gather(cumulative, run, batch_dims=1)
    bins = tf.gather(runs, run, batch_dims=1)
    cumulative = (before - tf.reduce_sum(bins, axis=1))[:, None]
    cumulative += tf.cumsum(bins, axis=1)
    passed = tf.cast(cumulative <= ranks[:, None], tf.int32)
    return run * _RUN + tf.reduce_sum(passed, axis=1)


def quantiles_of_histogram(histogram: tf.Tensor, fprs: Sequence[float]) -> tf.Tensor:
    """Reads thresholds at FPRs from counts per coarse bin, linearly within a bin.

    Args:
        histogram: Float32 tensor `(HISTOGRAM_BINS,)`, highest cosines first.
        fprs: Floats in (0, 1).

    Returns:
        Float32 tensor `(len(fprs),)` in [-1, 1]: the part of the counts above
        threshold k is `fprs[k]`. An empty histogram gives -1.
    """
    cumulative = tf.cumsum(histogram)
    wanted = tf.constant(fprs, tf.float32) * cumulative[-1]
    bins = tf.minimum(
        tf.searchsorted(cumulative, wanted, side="right"), HISTOGRAM_BINS - 1
    )
    count = tf.gather(histogram, bins)
    before = tf.gather(cumulative, bins) - count
    fraction = tf.clip_by_value(tf.math.divide_no_nan(wanted - before, count), 0.0, 1.0)
    steps = (tf.cast(bins, tf.float32) + fraction) * FINE_BINS
    quantiles = tf.clip_by_value(KEY_TOP - steps / KEY_SCALE, -1.0, 1.0)
    return tf.where(cumulative[-1] > 0, quantiles, -1.0)
