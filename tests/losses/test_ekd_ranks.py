"""Soft ranks against thresholds, and thresholds that pass their gradient on."""

import math

import numpy as np
import tensorflow as tf

from ekd_tf.losses.ekd import attach_thresholds
from ekd_tf.losses.ekd import near_in_rank
from ekd_tf.losses.ekd import soft_rank


def test_soft_rank_computed_by_hand(run_as):
    # 0.3 passes the thresholds 0.1 and 0.2 by far, sits on 0.3 and, in temperatures,
    # is ln 3 below the last: 1 + 1 + 1/2 + 1/4.
    thresholds = tf.constant([0.1, 0.2, 0.3, 0.3 + 0.001 * math.log(3)])
    got = run_as(lambda s: soft_rank(s, thresholds, 0.001))(tf.constant([0.3, -1.0]))
    np.testing.assert_allclose(got, [2.75, 0.0], rtol=1e-4)


def test_soft_rank_approaches_the_number_of_thresholds_below(rng):
    cosines = tf.constant(rng.uniform(-1, 1, 50), tf.float32)
    thresholds = tf.constant([-0.4, 0.0, 0.5])
    hard = np.sum(cosines[:, None] > thresholds[None, :], axis=1)
    np.testing.assert_allclose(soft_rank(cosines, thresholds, 1e-6), hard, atol=1e-3)


def attached(run_as, thresholds, hardest, mask, ranks):
    def step(thresholds, hardest):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([thresholds, hardest])
            near = near_in_rank(ranks, mask)
            values = attach_thresholds(thresholds, hardest, near)
            columns = tf.unstack(values)
        return values, [tape.gradient(column, hardest) for column in columns]

    return run_as(step)(tf.constant(thresholds), tf.constant(hardest))


def test_attached_thresholds_move_with_the_negatives_around_them(run_as):
    # Rank 4 of 10: two to either side, a fifth each. Rank 0: three from the top.
    hardest = np.linspace(0.9, 0.0, 10).astype(np.float32)
    values, gradients = attached(
        run_as, [0.3, 0.8], hardest, tf.ones(10, tf.bool), tf.constant([4, 0])
    )
    np.testing.assert_array_equal(values, np.float32([0.3, 0.8]))
    np.testing.assert_allclose(gradients[0], [0, 0] + [0.2] * 5 + [0] * 3, rtol=1e-6)
    np.testing.assert_allclose(gradients[1], [1 / 3] * 3 + [0] * 7, rtol=1e-6)


def test_attached_window_grows_with_the_rank(run_as):
    # A quarter of rank 40 to either side: ranks 30 to 50.
    hardest = np.linspace(1.0, 0.0, 100).astype(np.float32)
    _, gradients = attached(
        run_as, [0.5], hardest, tf.ones(100, tf.bool), tf.constant([40])
    )
    expected = np.where(np.abs(np.arange(100) - 40) <= 10, 1 / 21, 0)
    np.testing.assert_allclose(gradients[0], expected, rtol=1e-6)


def test_attached_threshold_ignores_filling_rows_and_ranks_beyond(run_as):
    # Four real rows: rank 3 sees ranks 1 to 3, rank 4 is not among them.
    hardest = np.float32([0.9, 0.8, 0.7, 0.6, -3.0, -3.0])
    mask = tf.constant([True] * 4 + [False] * 2)
    values, gradients = attached(run_as, [0.1, 0.2], hardest, mask, tf.constant([3, 4]))
    np.testing.assert_array_equal(values, np.float32([0.1, 0.2]))
    np.testing.assert_allclose(gradients[0], [0, 1 / 3, 1 / 3, 1 / 3, 0, 0], rtol=1e-6)
    np.testing.assert_array_equal(gradients[1], np.zeros(6))
