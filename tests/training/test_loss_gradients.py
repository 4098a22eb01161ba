"""Tests for `ekd_tf.training.loss_gradients`."""

import numpy as np
import tensorflow as tf

from ekd_tf.training.loss_gradients import add_each
from ekd_tf.training.loss_gradients import square_norm
from ekd_tf.training.loss_gradients import weighted_sum

# Rows 0 and 2 of three, the second twice: (1, 2), (0, 0), (8, 10).
SPARSE = tf.IndexedSlices(
    tf.constant([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
    tf.constant([0, 2, 2]),
    tf.constant([3, 2]),
)


def test_square_norm_is_that_of_one_vector():
    assert float(square_norm(tf.constant([[1.0, 2.0], [-2.0, 4.0]]))) == 25.0
    assert float(square_norm(SPARSE)) == 1 + 4 + 64 + 100
    assert float(square_norm(None)) == 0.0
    # In float16 its square would be infinite.
    assert float(square_norm(tf.constant([300.0], tf.float16))) == 90000.0


def test_weighted_sum_takes_each_source_by_itself():
    ones = tf.ones((3, 2))
    got = weighted_sum(
        [[ones, None, None], [SPARSE, ones, None]], [tf.constant(2.0), tf.constant(3.0)]
    )
    np.testing.assert_array_equal(got[0], [[5, 8], [2, 2], [26, 32]])
    np.testing.assert_array_equal(got[1], np.full((3, 2), 3.0))
    assert got[2] is None


def test_add_each_counts_none_as_nothing():
    one = tf.constant(1.0)
    got = add_each([one, None, one, None], [one, one, None, None])
    assert [g if g is None else float(g) for g in got] == [2.0, 1.0, 1.0, None]
