"""Order statistics of many cosines by counting, not by sorting.

Cosines are counted in narrow bins. The counts tell in which bins the wanted places of
the order lie, and only what lies in these few bins is sorted.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

BIN_WIDTH = 2.0**-11
# Upper end of the first bin: rounding lets the cosine of a row with itself exceed 1.
TOP = 1.0 + 2.0**-16
# The last bin holds cosine -1.
HISTOGRAM_BINS = 4097
# What stands for the cosine of two rows that are no pair: below any cosine, in a bin
# beyond the histogram.
NO_PAIR = -1.5
_NO_PAIR_BIN = int((TOP - NO_PAIR) / BIN_WIDTH)


def positions_of_fprs(num_negatives: tf.Tensor, fprs: Sequence[float]) -> tf.Tensor:
    """Returns floor(num_negatives * fpr) for each FPR, int32, exactly.

    As the reference implementation divides by 10^k; a product of floats that falls one
    short is mended.
    """
    rates, total = tf.constant(fprs, tf.float64), tf.cast(num_negatives, tf.float64)
    positions = tf.floor(total * rates)
    positions += tf.cast((positions + 1.0) / total <= rates, tf.float64)
    return tf.cast(positions, tf.int32)


def bins_of(cosines: tf.Tensor) -> tf.Tensor:
    """Returns the int32 bin of each cosine (or `NO_PAIR`), the highest cosines' 0."""
    return tf.cast((TOP - cosines) * (1.0 / BIN_WIDTH), tf.int32)


def count_bins(bins: tf.Tensor) -> tf.Tensor:
    """Counts `bins_of` cosines, int32 `(HISTOGRAM_BINS,)`; `NO_PAIR` does not count."""
    # `tf.math.bincount` derives its size from the data, which XLA cannot compile.
    return tf.raw_ops.DenseBincount(
        input=bins,
        size=HISTOGRAM_BINS,
        weights=tf.constant([], tf.int32),
        binary_output=False,
    )


def order_statistics(
    cosines: Sequence[tf.Tensor], histogram: tf.Tensor, positions: tf.Tensor
) -> tf.Tensor:
    """Returns the elements that a descending sort of all cosines has at some positions.

    Args:
        cosines: Float32 tensors `(n,)`, among them `NO_PAIR`: together they are sorted.
        histogram: The sum of their `count_bins`.
        positions: Int32 `(k,)`, from 0, each below the number of pairs, if any.

    Returns:
        Float32 `(k,)`; `NO_PAIR` without pairs.
    """
    above = tf.cumsum(histogram, exclusive=True)
    bins = tf.searchsorted(above, positions, side="right") - 1
    wanted = tf.scatter_nd(bins[:, None], tf.ones_like(bins), [_NO_PAIR_BIN + 1]) > 0
    candidates = [tf.boolean_mask(x, tf.gather(wanted, bins_of(x))) for x in cosines]
    candidates = tf.sort(
        tf.concat([*candidates, [NO_PAIR]], axis=0), direction="DESCENDING"
    )
    # Of those above a bin only the ones in wanted bins are left.
    left = tf.where(wanted[:HISTOGRAM_BINS], histogram, 0)
    left_above = tf.gather(tf.cumsum(left, exclusive=True), bins)
    return tf.gather(candidates, positions - tf.gather(above, bins) + left_above)


def quantiles_of_histogram(histogram: tf.Tensor, fprs: Sequence[float]) -> tf.Tensor:
    """Reads thresholds at FPRs from counts per bin, linearly within a bin.

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
    quantiles = TOP - (tf.cast(bins, tf.float32) + fraction) * BIN_WIDTH
    quantiles = tf.clip_by_value(quantiles, -1.0, 1.0)
    return tf.where(cumulative[-1] > 0, quantiles, -1.0)
