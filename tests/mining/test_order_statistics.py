import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.mining.order_statistics import BIN_WIDTH
from ekd_tf.mining.order_statistics import HISTOGRAM_BINS
from ekd_tf.mining.order_statistics import NO_PAIR
from ekd_tf.mining.order_statistics import TOP
from ekd_tf.mining.order_statistics import bins_of
from ekd_tf.mining.order_statistics import count_bins
from ekd_tf.mining.order_statistics import order_statistics
from ekd_tf.mining.order_statistics import positions_of_fprs
from ekd_tf.mining.order_statistics import quantiles_of_histogram

# Where cosines lie decides which bins are shared, empty or crowded.
COSINES = {
    "spread": lambda rng, n: rng.uniform(-1, 1, n),
    "like faces": lambda rng, n: np.tanh(rng.normal(0, 0.1, n)),
    "one bin": lambda rng, n: rng.uniform(0.25, 0.25 + BIN_WIDTH / 3, n),
    "all equal": lambda rng, n: np.full(n, 0.123),
    "two values": lambda rng, n: rng.choice([-0.5, 0.75], n),
    "near one": lambda rng, n: 1 - rng.integers(0, 9, n) * 2.0**-24,
    "all one": lambda rng, n: np.ones(n),
    "all minus one": lambda rng, n: -np.ones(n),
    "beyond one by rounding": lambda rng, n: rng.choice([-1 - 4e-7, 1 + 4e-7], n),
}


def select(blocks, positions):
    histogram = sum(count_bins(bins_of(block)) for block in blocks)
    return order_statistics(blocks, histogram, tf.convert_to_tensor(positions))


def test_cosines_are_counted_in_their_bins(run_as):
    # The ends of a cosine's range, the inside of a bin twice, and no pair.
    inside = TOP - 100.5 * BIN_WIDTH
    cosines = tf.constant([1.0, 1 + 4e-7, inside, inside, -1.0, -1 - 4e-7, NO_PAIR])
    counts = run_as(lambda x: count_bins(bins_of(x)))(cosines).numpy()
    assert counts.shape == (HISTOGRAM_BINS,)
    assert {b: counts[b] for b in np.flatnonzero(counts)} == {0: 2, 100: 2, 4096: 2}


def test_places_computed_by_hand(run_as):
    # floor(12345 f); 0.07 is not one over a whole number.
    fprs = [0.5, 1e-1, 1e-3, 1e-6, 0.07]
    positions = run_as(lambda n: positions_of_fprs(n, fprs))(tf.constant(12345))
    assert positions.numpy().tolist() == [6172, 1234, 12, 0, 864]
    # 100 * 0.29 is 28.999... in floats.
    got = positions_of_fprs(tf.constant(100), [0.29, 0.57])
    assert got.numpy().tolist() == [29, 57]
    assert positions_of_fprs(tf.constant(0), [0.29]).numpy().tolist() == [0]
    assert positions.dtype == tf.int32
    # In floats 1000 * 1e-3 may round to less than 1.
    fprs = [10.0**-k for k in range(1, 7)]
    for k in range(1, 7):
        for multiple in (1, 3, 7, 29):
            negatives = multiple * 10**k
            got = positions_of_fprs(tf.constant(negatives), fprs).numpy().tolist()
            assert got == [negatives // 10**j for j in range(1, 7)]
    # The product of floats is 0.9999999999999999.
    assert positions_of_fprs(tf.constant(49), [1 / 49]).numpy().tolist() == [1]


@pytest.mark.parametrize("kind", COSINES)
def test_selection_matches_a_sort(rng, kind):
    cosines = np.float32(COSINES[kind](rng, 3000))
    # Ranks may be equal and in any order.
    positions = np.int32([1500, 0, 1, 2, 2, 17, 2999, 300, 301])
    blocks = *np.split(cosines, [100, 1024]), np.full(40, NO_PAIR, np.float32)
    got = select([tf.constant(x) for x in blocks], positions)
    np.testing.assert_array_equal(got, np.sort(cosines)[::-1][positions])


def test_selection_from_nothing_is_no_pair(run_as):
    got = run_as(lambda x: select([x], tf.constant([0, 0])))(tf.fill([5], NO_PAIR))
    np.testing.assert_array_equal(got, [NO_PAIR, NO_PAIR])


def test_quantiles_computed_by_hand(run_as):
    # 4 counts in bin 10 and 12 in bin 20: an eighth lies above the middle of bin 10,
    # five eighths above the middle of bin 20. Of nothing they are -1.
    counts = np.zeros(HISTOGRAM_BINS, np.float32)
    quantiles = run_as(lambda c: quantiles_of_histogram(c, [0.625, 0.125]))
    np.testing.assert_array_equal(quantiles(tf.constant(counts)), [-1, -1])
    counts[10], counts[20] = 4, 12
    expected = [TOP - 20.5 * BIN_WIDTH, TOP - 10.5 * BIN_WIDTH]
    np.testing.assert_allclose(quantiles(tf.constant(counts)), expected, rtol=1e-6)


def test_quantiles_stay_cosines_at_both_ends():
    for value in (1.0, -1.0):
        counts = count_bins(bins_of(tf.fill([9], value)))
        got = quantiles_of_histogram(tf.cast(counts, tf.float32), [0.9, 1e-6])
        assert np.abs(got).max() <= 1
        np.testing.assert_allclose(got, [value, value], atol=BIN_WIDTH)
