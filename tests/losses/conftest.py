"""The batch on which the upstream losses were run."""

import numpy as np
import pytest
import tensorflow as tf


@pytest.fixture
def check_upstream(golden_arrays):
    """Returns `(function, key, factor) -> None`, comparing value and gradient.

    `function` maps student and teacher to a scalar; `factor` is what ours is larger by.
    """
    arrays = golden_arrays("losses_official.npz")

    def check(function, key, factor=1.0):
        student = tf.constant(arrays["student"])
        with tf.GradientTape() as tape:
            tape.watch(student)
            value = function(student, tf.constant(arrays["teacher"]))
        gradient = tape.gradient(value, student)
        expected = factor * arrays[f"{key}_grad"]
        np.testing.assert_allclose(value, factor * arrays[f"{key}_loss"], rtol=1e-4)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4 * scale)

    return check


@pytest.fixture
def random_batch(rng):
    """Returns `(rows, student_dim, teacher_dim) -> (student, teacher, labels)`."""

    def make(rows, student_dim=5, teacher_dim=5):
        return (
            np.float32(rng.normal(size=(rows, student_dim))),
            np.float32(rng.normal(size=(rows, teacher_dim))),
            np.int32(rng.integers(0, 4, rows)),
        )

    return make
