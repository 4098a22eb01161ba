import numpy as np
import pytest
import tensorflow as tf
from toys import value_and_gradient

from ekd_tf.ops import blocks
from ekd_tf.ops.blocks import sum_over_rows

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
