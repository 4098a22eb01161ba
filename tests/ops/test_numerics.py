import math

import numpy as np
import pytest
import tensorflow as tf
from refusals import refused
from toys import value_and_gradient

from ekd_tf.losses.triples import pairwise_squared_distances
from ekd_tf.ops import blocks
from ekd_tf.ops.blocks import sum_over_rows
from ekd_tf.ops.numerics import as_int32
from ekd_tf.ops.numerics import l2_normalize
from ekd_tf.ops.numerics import masked_mean
from ekd_tf.ops.numerics import safe_acos
from ekd_tf.ops.numerics import safe_sqrt


def test_root_and_slope_computed_by_hand(run_as):
    step = run_as(value_and_gradient(safe_sqrt))
    root, slope = step(tf.constant([4.0, 0.25, 0.0, -1.0]))
    np.testing.assert_allclose(root, [2, 0.5, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(slope, [0.25, 1, 0, 0], rtol=1e-6)


def test_unit_rows_and_gradients_computed_by_hand(run_as):
    # d(x / |x|) = (I - u u^T) / |x|: for x = (3, 4) and a sum of both entries
    # (1 - 0.6 * 1.4, 1 - 0.8 * 1.4) / 5 = (0.032, -0.024). A zero row stays zero, and
    # below epsilon the length counts as sqrt(1e-12).
    step = run_as(value_and_gradient(l2_normalize))
    unit, gradient = step(tf.constant([[3.0, 4.0], [-5.0, 0.0], [0.0, 0.0]]))
    np.testing.assert_allclose(unit, [[0.6, 0.8], [-1, 0], [0, 0]], rtol=1e-6)
    expected = [[0.032, -0.024], [0, 0.2], [1e6, 1e6]]
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-7)


def test_half_precision_is_normalised_in_float32(rng):
    # 300^2 * 64 overflows float16.
    rows = tf.cast(rng.normal(0, 300, (4, 64)), "float16")
    unit = l2_normalize(rows)
    assert unit.dtype == tf.float32
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), np.ones(4), rtol=1e-6)


def test_whole_numbers_of_any_type_become_int32_or_are_refused():
    for values in (np.int64([-5, 2**31 - 1]), np.float32([-5, 7]), np.uint32([5, 7])):
        assert as_int32(values).numpy().tolist() == values.tolist()
    error = tf.errors.InvalidArgumentError
    for value in (np.uint32(3e9), np.float32(3e9), np.float32(1.7), np.int64(-3e9)):
        refused("whole numbers from -2.31", as_int32, value, error=error)


def test_angles_and_slopes_computed_by_hand(run_as):
    # d acos(x) = -1 / sqrt(1 - x^2); none where the cosine is clipped.
    step = run_as(value_and_gradient(safe_acos))
    angle, slope = step(tf.constant([0.5, 0.6, -0.8, 1.0, 1.5, -1.0, -1.5]))
    expected = [math.pi / 3, math.acos(0.6), math.acos(-0.8)]
    np.testing.assert_allclose(angle[:3], expected, rtol=1e-6)
    expected = [-2 / math.sqrt(3), -1 / 0.8, -1 / 0.6, 0, 0, 0, 0]
    np.testing.assert_allclose(slope, expected, rtol=1e-5)
    # acos(1 - 1e-6) = sqrt(2e-6) = 1.41e-3.
    from_ends = np.abs(angle[3:] - [0.0, 0.0, math.pi, math.pi])
    np.testing.assert_allclose(from_ends, np.full(4, 1.414e-3), rtol=0.05)


def test_mean_of_each_row_of_a_mask(run_as):
    values = tf.constant([[1.0, 2.0, 6.0]])
    kept = tf.constant([[True, True, True], [False, True, True], [False] * 3])
    means = run_as(lambda v, k: masked_mean(v, k, axis=1))(values, kept)
    np.testing.assert_allclose(means, [3.0, 4.0, 0.0])


def test_mean_of_all_and_of_nothing_with_their_gradients(run_as):
    step = run_as(value_and_gradient(masked_mean))
    for kept, mean, slopes in (
        ([True, False, True], 3.5, [0.5, 0, 0.5]),
        ([False, False, False], 0, [0, 0, 0]),
    ):
        found, gradient = step(tf.constant([1.0, 2.0, 6.0]), tf.constant(kept))
        assert float(found) == mean
        np.testing.assert_allclose(gradient, slopes)


def test_squared_distances_computed_by_hand(run_as):
    rows = tf.constant([[0.0, 0.0], [3.0, 4.0], [3.0, 0.0]])
    squares = run_as(pairwise_squared_distances)(rows)
    expected = [[0, 25, 9], [25, 0, 16], [9, 16, 0]]
    np.testing.assert_allclose(squares, expected, rtol=1e-5)


def test_rows_that_coincide_have_distance_zero_and_no_gradient(run_as, rng):
    rows = rng.normal(size=(6, 32))
    rows[1], rows[2] = rows[0], rows[0] * (1 + 1e-4)
    # Far from the origin, where products of the rows as they are would cancel.
    rows = tf.constant(rows + 50.0, tf.float32)
    step = value_and_gradient(lambda x: pairwise_squared_distances(x)[:3, :3])
    near, gradient = run_as(step)(rows)
    np.testing.assert_array_equal(near, np.zeros((3, 3)))
    np.testing.assert_array_equal(gradient, np.zeros((6, 32)))
    exact = np.float64(rows)
    exact = ((exact[:, None] - exact[None, :]) ** 2).sum(axis=2)
    squares = run_as(pairwise_squared_distances)(rows)
    np.testing.assert_allclose(squares[3:, 3:], exact[3:, 3:], rtol=1e-4)
    np.testing.assert_allclose(squares[0, 3:], exact[0, 3:], rtol=1e-4)


MATRIX = np.arange(9, dtype=np.float32).reshape(3, 3)


def row_values(rows, matrix):
    """The number of a row, counted from 1, times the sum of its squares."""
    squares = tf.reduce_sum(tf.gather(matrix, rows) ** 2, axis=1)
    return tf.cast(rows + 1, tf.float32) * squares


@pytest.mark.parametrize(
    "block_size, known", [(1, False), (2, False), (2, True), (3, True)]
)
def test_sums_rows_and_their_gradients(run_as, monkeypatch, block_size, known):
    # 1 (0 + 1 + 4) + 2 (9 + 16 + 25) + 3 (36 + 49 + 64); the derivative is 2 (row) x.
    monkeypatch.setattr(blocks, "MAX_ENTRIES", block_size * 9)
    step = value_and_gradient(lambda x: 10.0 * sum_over_rows(row_values, x))
    if not known:
        step = tf.function(step, input_signature=[tf.TensorSpec([None, None])])
    value, gradient = run_as(step)(tf.constant(MATRIX))
    np.testing.assert_allclose(value, 10 * 552, rtol=1e-6)
    gradient = tf.convert_to_tensor(gradient)
    np.testing.assert_allclose(gradient, 20 * np.array([[1], [2], [3]]) * MATRIX)
