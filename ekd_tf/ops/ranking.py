"""Order statistics of many cosines by counting, and ranks against thresholds.

Nothing here sorts all pairs. A cosine is quantised to 2^-23 (one float32 step just
above 1, two just below) into a descending integer key; two counting passes of 4096 bins
each then read any order statistic off. Pairs come in blocks whose counts add up. Every
shape is static where the batch is, so XLA compiles it.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from ekd_tf.ops.numerics import masked_mean

# Keys count steps of 2^-23 down from slightly above 1, since rounding lets the cosine
# of a row with itself exceed 1 by a few steps.
KEY_SCALE = 2.0**23
KEY_TOP = 1.0 + 2.0**-16
LEVEL_BITS = 12
LEVEL_BINS = 1 << LEVEL_BITS
RUN = 64
# Cosine -1 falls into bin 4096: one more bin than 2^12.
HISTOGRAM_BINS = LEVEL_BINS + 1
# Entries that are no pair hold this value, below any cosine. Their key lies in a bin
# beyond the histogram, where `bincount` drops it.
NO_PAIR = -1.5
NO_PAIR_BIN = int((KEY_TOP - NO_PAIR) * KEY_SCALE) >> LEVEL_BITS


def descending_keys(similarities: tf.Tensor) -> tf.Tensor:
    """Returns int32 keys `(n,)` that grow as cosines fall, in steps of 2^-23.

    Args:
        similarities: Float32 tensor of any shape: finite cosines, or `NO_PAIR`.
    """
    keys = tf.cast((KEY_TOP - similarities) * KEY_SCALE, tf.int32)
    return tf.reshape(keys, [-1])


def _count(bins, size):
    """Counts int32 bins below `size`; those beyond are dropped."""
    # `tf.math.bincount` derives its size from the data, which XLA cannot compile.
    return tf.raw_ops.DenseBincount(
        input=bins, size=size, weights=tf.constant([], tf.int32), binary_output=False
    )


def coarse_histogram(keys: tf.Tensor) -> tf.Tensor:
    """Counts `descending_keys` in bins of width 2^-11, int32 `(HISTOGRAM_BINS,)`."""
    return _count(tf.bitwise.right_shift(keys, LEVEL_BITS), HISTOGRAM_BINS)


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
            tf.fill([NO_PAIR_BIN + 1], self._num_ranks),
            self._coarse[:, None],
            tf.range(self._num_ranks),
        )
        self._change = tf.bitwise.left_shift(
            tf.bitwise.bitwise_xor(slot_of_bin, tf.range(NO_PAIR_BIN + 1)), LEVEL_BITS
        )
        self._slot_of_rank = tf.gather(slot_of_bin, self._coarse)

    def no_counts(self) -> tf.Tensor:
        """Returns the counts of no block at all, int32 `(k * LEVEL_BINS,)`."""
        return tf.zeros([self._num_ranks * LEVEL_BINS], tf.int32)

    def count(self, keys: tf.Tensor) -> tf.Tensor:
        """Counts the keys of one block, int32 `(k * LEVEL_BINS,)`."""
        bins = tf.bitwise.right_shift(keys, LEVEL_BITS)
        fine_keys = tf.bitwise.bitwise_xor(keys, tf.gather(self._change, bins))
        return _count(fine_keys, self._num_ranks * LEVEL_BINS)

    def cosines(self, counts: tf.Tensor) -> tf.Tensor:
        """Returns the cosines, float32 `(k,)`, within 2^-23 of those a sort gives.

        Args:
            counts: The sum of `count` over all blocks.
        """
        counts = tf.reshape(counts, [self._num_ranks, LEVEL_BINS])
        counts = tf.gather(counts, self._slot_of_rank)
        steps = self._coarse * LEVEL_BINS + _bins_of_ranks(counts, self._inside)
        return KEY_TOP - (tf.cast(steps, tf.float32) + 0.5) / KEY_SCALE


def _bins_of_ranks(counts, ranks):
    """Returns the bin that holds the entry at each rank, one histogram per rank."""
    # First the run of bins, then the bin: running sums over all bins take longer than
    # all else does in a small batch.
    runs = tf.reshape(counts, [ranks.shape[0], -1, RUN])
    cumulative = tf.cumsum(tf.reduce_sum(runs, axis=2), axis=1)
    passed = tf.cast(cumulative <= ranks[:, None], tf.int32)
    run = tf.minimum(tf.reduce_sum(passed, axis=1), LEVEL_BINS // RUN - 1)
    before = tf.gather(cumulative, run, batch_dims=1)
    bins = tf.gather(runs, run, batch_dims=1)
    cumulative = (before - tf.reduce_sum(bins, axis=1))[:, None]
    cumulative += tf.cumsum(bins, axis=1)
    passed = tf.cast(cumulative <= ranks[:, None], tf.int32)
    return run * RUN + tf.reduce_sum(passed, axis=1)


def quantiles_of_histogram(histogram: tf.Tensor, fprs: Sequence[float]) -> tf.Tensor:
    """Reads thresholds at FPRs from (possibly decayed) counts per coarse bin.

    Interpolates linearly inside the bin, of width 2^-11.

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
    steps = (tf.cast(bins, tf.float32) + fraction) * LEVEL_BINS
    quantiles = tf.clip_by_value(KEY_TOP - steps / KEY_SCALE, -1.0, 1.0)
    return tf.where(cumulative[-1] > 0, quantiles, -1.0)


def attach_thresholds(
    thresholds: tf.Tensor, hardest: tf.Tensor, mask: tf.Tensor, ranks: tf.Tensor
) -> tf.Tensor:
    """Lets the gradient of thresholds reach the negatives that define them.

    The values stay. The derivative of threshold k is that of the mean of the batch's
    negatives of rank 3/4 r_k to 5/4 r_k (at least two to either side), with r_k the
    rank of the order statistic: a quantile moves with the values around it.

    Args:
        thresholds: Float32 tensor `(num_fprs,)`, the values in use.
        hardest: Float32 tensor `(num_mined,)`, the student's largest negative
            cosines, falling.
        mask: Bool tensor `(num_mined,)`, False on rows that are no pair.
        ranks: Int32 tensor `(num_fprs,)`, 0-based ranks of the thresholds among all
            negatives. One beyond the mined negatives has no gradient.
    """
    positions = tf.cast(tf.range(tf.shape(hardest)[0]), tf.float32)
    wanted = tf.cast(ranks, tf.float32)[:, None]
    near = tf.abs(positions[None, :] - wanted) <= tf.maximum(0.25 * wanted, 2.0)
    means = masked_mean(hardest[None, :], near & mask[None, :], axis=1)
    num_mined = tf.math.count_nonzero(mask, dtype=tf.int32)
    means = tf.where(ranks < num_mined, means, tf.stop_gradient(means))
    return thresholds + (means - tf.stop_gradient(means))


def attach_thresholds_to_sample(
    thresholds: tf.Tensor, cosines: tf.Tensor, mask: tf.Tensor, reach: float
) -> tf.Tensor:
    """Lets the gradient of thresholds reach a sample of the negatives around them.

    For thresholds too far down to have all negatives above them at hand. The values
    stay. The derivative of threshold k is that of the mean of the sampled negatives
    within `reach` of it; without any it has none.

    Args:
        thresholds: Float32 tensor `(num_fprs,)`, the values in use.
        cosines: Float32 tensor of any shape: the student's cosines of a sample.
        mask: Bool tensor of that shape, False where there is no negative pair.
        reach: Float > 0, in units of cosine.
    """
    cosines, mask = tf.reshape(cosines, [-1]), tf.reshape(mask, [-1])
    distance = tf.abs(cosines[None, :] - thresholds[:, None])
    near = (distance <= reach) & mask[None, :]
    means = masked_mean(cosines[None, :], near, axis=1)
    return thresholds + (means - tf.stop_gradient(means))


def soft_rank(
    similarities: tf.Tensor, thresholds: tf.Tensor, temperature: float
) -> tf.Tensor:
    """Counts the thresholds `(k,)` below cosines `(n,)`, each as a sigmoid step.

    The slope is noticeable within about five temperatures, in units of cosine, of a
    threshold. Returns float32 `(n,)` in [0, k].
    """
    margins = similarities[:, None] - thresholds[None, :]
    return tf.reduce_sum(tf.sigmoid(margins / temperature), axis=1)


def above(similarities: tf.Tensor, thresholds: tf.Tensor) -> tf.Tensor:
    """Returns whether cosines `(n,)` are above thresholds `(k,)`, bool `(n, k)`."""
    return similarities[:, None] > thresholds[None, :]
