"""A loop over blocks of a tensor too large to hold at once."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from ekd_tf.ops.numerics import num_rows

# Of one block of `sum_over_rows`: a tensor of 4 MB.
MAX_ENTRIES = 1 << 20


def sum_over_rows(
    function: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], matrix: tf.Tensor
) -> tf.Tensor:
    """Adds a function's values for all rows of a square matrix, a block at a time.

    Each block is computed again for the gradient, so that tensors
    `(rows, batch, batch)` exist for one block only, forwards and backwards.

    Args:
        function: Maps row numbers, int32 `(block,)`, and `matrix` to the value of each
            row, float32 `(block,)`. What it captures besides receives no gradient.
        matrix: Float32 tensor `(batch, batch)`.

    Returns:
        Float32 scalar.
    """
    known, batch = matrix.shape[0], num_rows(matrix)
    # Where the batch is unknown when tracing, one row at a time.
    block_size = 1 if known is None else max(1, min(known, MAX_ENTRIES // known**2))
    num_blocks = -(-batch // block_size)

    def block_sum(block, matrix):
        rows = block * block_size + tf.range(block_size)
        values = function(tf.minimum(rows, batch - 1), matrix)
        return tf.reduce_sum(tf.where(rows < batch, values, 0.0))

    if block_size == known:
        # A loop costs a small batch dearly.
        return block_sum(tf.constant(0), matrix)

    def over_blocks(step, initial):
        _, total = tf.while_loop(
            lambda block, total: block < num_blocks,
            lambda block, total: (block + 1, total + step(block)),
            (tf.constant(0), initial),
            parallel_iterations=1,
        )
        return total

    @tf.custom_gradient
    def total_sum(matrix):
        def gradient(upstream):
            def step(block):
                with tf.GradientTape() as tape:
                    tape.watch(matrix)
                    value = block_sum(block, matrix)
                return tape.gradient(value, matrix)

            return upstream * over_blocks(step, tf.zeros_like(matrix))

        return over_blocks(lambda block: block_sum(block, matrix), 0.0), gradient

    return total_sum(matrix)
