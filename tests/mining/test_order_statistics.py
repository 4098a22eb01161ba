import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.mining.order_statistics import HISTOGRAM_BINS
from ekd_tf.mining.order_statistics import KEY_TOP
from ekd_tf.mining.order_statistics import RankSearch
from ekd_tf.mining.order_statistics import coarse_histogram
from ekd_tf.mining.order_statistics import descending_keys
from ekd_tf.mining.order_statistics import quantiles_of_histogram
from ekd_tf.mining.order_statistics import ranks_of_fprs
from ekd_tf.mining.pairs import NO_PAIR

STEP = 2.0**-23
BIN = 2.0**-11

# Where cosines lie decides which bins are shared, empty or crowded.
COSINES = {
    "spread": lambda rng, n: rng.uniform(-1, 1, n),
    "like faces": lambda rng, n: np.tanh(rng.normal(0, 0.1, n)),
    "one bin": lambda rng, n: rng.uniform(0.25, 0.25 + BIN / 3, n),
    "all equal": lambda rng, n: np.full(n, 0.123),
    "two values": lambda rng, n: rng.choice([-0.5, 0.75], n),
    "near one": lambda rng, n: 1 - rng.integers(0, 9, n) * 2.0**-24,
    "all one": lambda rng, n: np.ones(n),
    "all minus one": lambda rng, n: -np.ones(n),
    "beyond one by rounding": lambda rng, n: rng.choice([-1 - 4e-7, 1 + 4e-7], n),
}


def select(blocks, ranks):
    keys = [descending_keys(block) for block in blocks]
    histogram = sum(coarse_histogram(block) for block in keys)
    search = RankSearch(histogram, tf.convert_to_tensor(ranks))
    return search.cosines(search.no_counts() + sum(search.count(x) for x in keys))


# --- counting


@pytest.mark.parametrize("kind", COSINES)
def test_every_cosine_is_counted_in_its_bin(rng, kind):
    cosines = np.float32(COSINES[kind](rng, 1000))
    counts = coarse_histogram(descending_keys(tf.constant(cosines))).numpy()
    assert counts.shape == (HISTOGRAM_BINS,) and counts.sum() == 1000
    # Bin b holds cosines in (top - (b + 1) * width, top - b * width], up to a key step.
    for b in np.flatnonzero(counts):
        low, high = KEY_TOP - (b + 1) * BIN, KEY_TOP - b * BIN
        inside = (cosines > low - STEP) & (cosines < high + STEP)
        assert inside.sum() >= counts[b]


def test_entries_that_are_no_pair_are_not_counted(run_as, rng):
    cosines = np.float32(rng.uniform(-1, 1, (6, 8)))
    cosines[:, ::2] = NO_PAIR
    counts = run_as(lambda x: coarse_histogram(descending_keys(x)))(
        tf.constant(cosines)
    )
    assert int(tf.reduce_sum(counts)) == 24


# --- which rank an FPR asks for


def test_ranks_computed_by_hand(run_as):
    # floor(12345 f); 0.07 is not one over a whole number.
    ranks = run_as(lambda n: ranks_of_fprs(n, [0.5, 1e-1, 1e-3, 1e-6, 0.07]))(
        tf.constant(12345)
    )
    assert ranks.numpy().tolist() == [6172, 1234, 12, 0, 864]
    assert ranks.dtype == tf.int32


def test_ranks_of_whole_multiples_do_not_fall_one_short():
    # In floats 1000 * 1e-3 may round to less than 1.
    fprs = [10.0**-k for k in range(1, 7)]
    for k in range(1, 7):
        for multiple in (1, 3, 7, 29):
            negatives = multiple * 10**k
            got = ranks_of_fprs(tf.constant(negatives), fprs).numpy().tolist()
            assert got == [negatives // 10**j for j in range(1, 7)]
    # The product of floats is 0.9999999999999999.
    assert ranks_of_fprs(tf.constant(49), [1 / 49]).numpy().tolist() == [1]


# --- order statistics


@pytest.mark.parametrize("kind", COSINES)
def test_selection_matches_a_sort(rng, kind):
    cosines = np.float32(COSINES[kind](rng, 3000))
    ranks = np.int32([0, 1, 2, 17, 300, 301, 1500, 2999])
    got = select([tf.constant(x) for x in np.split(cosines, [100, 1024])], ranks)
    np.testing.assert_allclose(got, np.sort(cosines)[::-1][ranks], rtol=0, atol=STEP)


def test_selection_in_every_mode(rng, run_as):
    cosines = np.float32(COSINES["like faces"](rng, 3000))
    # Ranks may be equal and in any order.
    ranks = np.int32([300, 3, 0, 3, 2999])
    got = run_as(lambda x, r: select([x[:1000], x[1000:]], r))(
        tf.constant(cosines), tf.constant(ranks)
    )
    np.testing.assert_allclose(got, np.sort(cosines)[::-1][ranks], rtol=0, atol=STEP)


def test_selection_passes_over_entries_that_are_no_pair(rng, run_as):
    cosines = np.float32(rng.uniform(-1, 1, 200))
    kept = np.sort(cosines[100:])[::-1]
    cosines[:100] = NO_PAIR
    got = run_as(lambda x: select([x], tf.constant([0, 50, 99])))(tf.constant(cosines))
    np.testing.assert_allclose(got, kept[[0, 50, 99]], rtol=0, atol=STEP)


def test_selection_from_nothing_ends(run_as):
    got = run_as(lambda x: select([x], tf.constant([0, 0])))(tf.fill([5], NO_PAIR))
    assert got.shape == (2,) and np.isfinite(got).all()


# --- thresholds of a decayed histogram


def test_quantiles_computed_by_hand(run_as):
    # 4 counts in bin 10 and 12 in bin 20: an eighth lies above the middle of bin 10,
    # five eighths above the middle of bin 20.
    counts = np.zeros(HISTOGRAM_BINS, np.float32)
    counts[10], counts[20] = 4, 12
    got = run_as(lambda c: quantiles_of_histogram(c, [0.625, 0.125]))(
        tf.constant(counts)
    )
    expected = [KEY_TOP - 20.5 * BIN, KEY_TOP - 10.5 * BIN]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_quantiles_do_not_depend_on_the_scale_of_the_counts(rng):
    counts = np.float32(rng.integers(0, 5, HISTOGRAM_BINS))
    one = quantiles_of_histogram(tf.constant(counts), [0.3, 0.01, 1e-4])
    scaled = quantiles_of_histogram(tf.constant(counts * 1e-4), [0.3, 0.01, 1e-4])
    np.testing.assert_allclose(one, scaled, rtol=0, atol=BIN / 20)


def test_quantiles_match_a_sort_within_a_bin(rng):
    cosines = np.float32(COSINES["like faces"](rng, 200_000))
    counts = coarse_histogram(descending_keys(tf.constant(cosines)))
    fprs = [1e-1, 1e-2, 1e-3, 1e-4]
    got = quantiles_of_histogram(tf.cast(counts, tf.float32), fprs).numpy()
    exact = np.sort(cosines)[::-1][[int(200_000 * fpr) for fpr in fprs]]
    # In crowded bins the interpolation is far finer than the bin.
    np.testing.assert_allclose(got[:2], exact[:2], rtol=0, atol=BIN / 10)
    np.testing.assert_allclose(got, exact, rtol=0, atol=2 * BIN)


def test_quantiles_of_nothing_are_minus_one(run_as):
    got = run_as(lambda c: quantiles_of_histogram(c, [0.1, 1e-6]))(
        tf.zeros([HISTOGRAM_BINS])
    )
    np.testing.assert_array_equal(got, [-1, -1])


def test_quantiles_stay_cosines_at_both_ends():
    for value in (1.0, -1.0):
        counts = coarse_histogram(descending_keys(tf.fill([9], value)))
        got = quantiles_of_histogram(tf.cast(counts, tf.float32), [0.9, 1e-6])
        assert np.abs(got).max() <= 1
        np.testing.assert_allclose(got, [value, value], atol=BIN)
