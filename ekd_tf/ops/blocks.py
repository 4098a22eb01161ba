"""Loops over blocks of a tensor too large to hold at once."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence

import tensorflow as tf


def scan_blocks(
    function: Callable, num_blocks: int | tf.Tensor, initial: Sequence
) -> list:
    """Visits blocks one after the other, so that one block's temporaries exist at once.

    Args:
        function: Maps a block number, int32 scalar, and the values carried so far to
            the sequence of new ones, of the same shapes.
        num_blocks: Int >= 1, or int32 scalar tensor.
        initial: Sequence of tensors or `tf.TensorArray`s: the values before the first
            block.

    Returns:
        List of the values after the last block.
    """
    if isinstance(num_blocks, int) and num_blocks == 1:
        # A loop costs a small batch dearly.
        return list(function(tf.constant(0), *initial))
    _, *carried = tf.while_loop(
        lambda block, *carried: block < num_blocks,
        lambda block, *carried: (block + 1, *function(block, *carried)),
        (tf.constant(0), *initial),
        parallel_iterations=1,
    )
    return carried


def sum_over_blocks(
    function: Callable, num_blocks: int | tf.Tensor, tensor: tf.Tensor
) -> tf.Tensor:
    """Adds a function's values over blocks, recomputing each for the gradient.

    Memory is that of one block, not of all, forwards and backwards.

    Args:
        function: Maps a block number, int32 scalar, and `tensor` to a float32 scalar.
            What it captures besides receives no gradient.
        num_blocks: Int >= 1, or int32 scalar tensor.
        tensor: Float32 tensor.

    Returns:
        Float32 scalar.
    """
    if isinstance(num_blocks, int) and num_blocks == 1:
        # A loop costs a small batch dearly.
        return function(tf.constant(0), tensor)

    def over_blocks(step, initial):
        (total,) = scan_blocks(
            lambda block, total: [total + step(block)], num_blocks, [initial]
        )
        return total

    @tf.custom_gradient
    def total_sum(tensor):
        def gradient(upstream):
            def step(block):
                with tf.GradientTape() as tape:
                    tape.watch(tensor)
                    value = function(block, tensor)
                return tape.gradient(value, tensor)

            return upstream * over_blocks(step, tf.zeros_like(tensor))

        return over_blocks(lambda block: function(block, tensor), 0.0), gradient

    return total_sum(tensor)
