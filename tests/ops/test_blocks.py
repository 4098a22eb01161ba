import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.ops.blocks import scan_blocks
from ekd_tf.ops.blocks import sum_over_blocks


def block_value(block, tensor):
    """The sum of (block + 1) x^2 over a block of two entries."""
    part = tf.gather(tensor, 2 * block + tf.range(2))
    return tf.reduce_sum(tf.cast(block + 1, tf.float32) * part**2)


@pytest.mark.parametrize("num_blocks", [1, 4])
def test_blocks_are_visited_in_order_and_hand_on_what_they_carry(run_as, num_blocks):
    def step(start):
        def function(block, digits, count):
            return 10 * digits + block, count + 1

        return scan_blocks(function, num_blocks, (start, tf.constant(0)))

    digits, count = run_as(step)(tf.constant(7))
    assert (int(digits), int(count)) == {1: (70, 1), 4: (70123, 4)}[num_blocks]


@pytest.mark.parametrize("num_blocks", [1, 3])
def test_sums_blocks_and_their_gradients(run_as, num_blocks):
    # 1 (1 + 4) + 2 (9 + 16) + 3 (25 + 36); the derivative is 2 (block + 1) x.
    def step(tensor):
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            value = 10.0 * sum_over_blocks(block_value, num_blocks, tensor)
        return value, tf.convert_to_tensor(tape.gradient(value, tensor))

    value, gradient = run_as(step)(tf.constant([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
    expected = {1: 5.0, 3: 238.0}[num_blocks]
    np.testing.assert_allclose(value, 10 * expected, rtol=1e-6)
    slopes = np.array([2, 4, 12, 16, 30, 36.0]) * 10
    slopes[2 * num_blocks :] = 0
    np.testing.assert_allclose(gradient, slopes, rtol=1e-6)


def test_number_of_blocks_may_be_a_tensor():
    total = tf.function(lambda n, x: sum_over_blocks(block_value, n, x))
    rows = tf.constant([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    for num_blocks, expected in ((1, 5.0), (2, 55.0), (3, 238.0)):
        np.testing.assert_allclose(total(tf.constant(num_blocks), rows), expected)
