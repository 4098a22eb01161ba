"""Hashing: published vectors, plain-integer arithmetic, independence, ranges."""

import numpy as np
import pytest

from ekd_tf.data.synthetic.parameters import IDENTITY
from ekd_tf.data.synthetic.parameters import SAMPLE
from ekd_tf.data.synthetic.parameters import draw
from ekd_tf.data.synthetic.parameters import parameters
from ekd_tf.data.synthetic.parameters import splitmix64

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15

# First outputs of SplitMix64 started at 1234567, as published with Vigna's
# splitmix64.c (rosettacode.org, "Pseudo-random numbers/Splitmix64").
PUBLISHED = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]


def splitmix64_int(state):
    """The generator in Python's unbounded integers."""
    z = (state + GOLDEN) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def unit(bits):
    """The middle of one of 2^23 equal cells of (0, 1), in float64."""
    return ((bits >> 41) + 0.5) / 2**23


def test_splitmix64_gives_the_published_sequence():
    states = np.array([(1234567 + j * GOLDEN) & MASK for j in range(5)], np.uint64)
    assert splitmix64(states).tolist() == PUBLISHED


def test_splitmix64_matches_integer_arithmetic(rng):
    states = rng.integers(0, 2**64, 100, dtype=np.uint64)
    states[:2] = 0, MASK
    expected = [splitmix64_int(int(state)) for state in states]
    assert splitmix64(states).tolist() == expected


def test_splitmix64_does_not_touch_its_argument():
    states = np.arange(4, dtype=np.uint64)
    splitmix64(states)
    np.testing.assert_array_equal(states, np.arange(4))


def test_draw_takes_output_j_for_the_name_in_place_j():
    keys = np.array([1234567, 99], np.uint64)
    drawn = draw(keys, {"a": (0.0, 1.0), "b": (-2.0, 2.0), "c": (5.0, 5.0)})
    assert list(drawn) == ["a", "b", "c"]
    assert all(v.shape == (2, 1, 1) and v.dtype == np.float32 for v in drawn.values())
    np.testing.assert_allclose(drawn["a"][0, 0, 0], unit(PUBLISHED[0]), rtol=1e-7)
    np.testing.assert_allclose(
        drawn["b"][0, 0, 0], -2 + 4 * unit(PUBLISHED[1]), rtol=1e-6
    )
    np.testing.assert_array_equal(drawn["c"], 5)
    other = splitmix64_int(99 + GOLDEN)
    np.testing.assert_allclose(drawn["b"][1, 0, 0], -2 + 4 * unit(other), rtol=1e-6)


def test_largest_and_smallest_hash_stay_inside_the_open_interval(monkeypatch):
    # 1 itself would index past the end of a colour table.
    for bits, expected in ((0, 2.0**-24), (MASK, 1 - 2.0**-24)):
        monkeypatch.setattr(
            "ekd_tf.data.synthetic.parameters.splitmix64",
            lambda states, bits=bits: np.full(states.shape, bits, np.uint64),
        )
        value = draw(np.zeros(1, np.uint64), {"a": (0.0, 1.0)})["a"].item()
        assert value == expected


def test_parameters_stay_in_range_and_fill_it():
    numbers = parameters(3, np.arange(4000), np.arange(4000) % 7)
    ranges = {**IDENTITY, **SAMPLE}
    assert set(vars(numbers)) == set(ranges)
    for name, (low, high) in ranges.items():
        units = (getattr(numbers, name).ravel() - low) / (high - low)
        assert -1e-6 <= units.min() < 0.01, name
        assert 0.99 < units.max() <= 1 + 1e-6, name
        # Standard error of the mean of 4,000 uniforms: 0.0046.
        assert abs(units.mean() - 0.5) < 0.025, name


def test_parameters_are_uncorrelated():
    numbers = parameters(0, np.arange(4000), np.arange(4000) // 100)
    table = np.stack([values.ravel() for values in vars(numbers).values()])
    correlation = np.corrcoef(table) - np.eye(len(table))
    # Standard error 0.016; the largest of about 7,000 pairs lies near 4 of them.
    assert np.abs(correlation).max() < 0.085


def test_identity_parameters_do_not_depend_on_the_sample():
    first = parameters(0, np.array([5, 6]), np.array([0, 0]))
    second = parameters(0, np.array([5, 6]), np.array([1, 9]))
    for name in IDENTITY:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    for name in SAMPLE:
        assert np.all(getattr(first, name) != getattr(second, name)), name


def test_identities_share_no_conditions():
    # Were they f(seed, k), image k of everybody would have the same light.
    numbers = parameters(0, np.arange(50), np.full(50, 3))
    for name in SAMPLE:
        assert len(np.unique(getattr(numbers, name))) == 50, name


@pytest.mark.parametrize("swap", [(0, 1, 0), (1, 0, 0), (0, 0, 1)])
def test_seed_identity_and_sample_are_not_interchangeable(swap):
    seed, identity, sample = swap
    base = parameters(0, np.array([0]), np.array([0]))
    other = parameters(seed, np.array([identity]), np.array([sample]))
    assert base.yaw != other.yaw
    assert (base.skin_tone != other.skin_tone) == (seed + identity > 0)


def test_seed_and_identity_do_not_collide():
    # 64 seeds x 64 identities would give 4,096 equal keys of 127 if they were added.
    seen = [
        parameters(seed, np.arange(64), np.zeros(64, int)).depth.ravel()
        for seed in range(64)
    ]
    # Of 2^23 cells 4,096 draws share one about once.
    assert len(np.unique(seen)) > 4080


def test_integer_type_does_not_matter():
    wide = parameters(7, np.array([3], np.int64), np.array([2], np.int64))
    narrow = parameters(7, np.array([3], np.uint8), np.array([2], np.int32))
    assert {k: v.item() for k, v in vars(wide).items()} == {
        k: v.item() for k, v in vars(narrow).items()
    }
