"""The gradients of several losses, kept apart until their weights are known."""

from __future__ import annotations

import tensorflow as tf


def square_norm(gradient) -> tf.Tensor:
    """Returns the squared length of a gradient as one vector, a float32 scalar.

    Args:
        gradient: Float tensor of any shape, or None for a loss that does not depend
            on the tensor: 0.
    """
    if gradient is None:
        return tf.constant(0.0)
    return tf.reduce_sum(tf.cast(tf.convert_to_tensor(gradient), tf.float32) ** 2)


def weighted_sum(gradients: list, weights: list) -> list:
    """Adds the gradients of several losses, source by source.

    Args:
        gradients: Per loss a list with one gradient per source, None where the loss
            does not depend on it. A sparse one stays so where it is the only one.
        weights: Per loss a float32 scalar.

    Returns:
        List with one gradient per source, None where no loss depends on it.
    """
    return [
        _add(
            [
                _scaled(weight, gradient)
                for weight, gradient in zip(weights, of_source)
                if gradient is not None
            ]
        )
        for of_source in zip(*gradients)
    ]


def add_each(one: list, other: list) -> list:
    """Adds two lists of gradients entry by entry; None counts as nothing."""
    return [_add([g for g in pair if g is not None]) for pair in zip(one, other)]


def _scaled(weight, gradient):
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(
            weight * gradient.values, gradient.indices, gradient.dense_shape
        )
    return weight * gradient


def _add(gradients):
    if len(gradients) > 1:
        return tf.add_n([tf.convert_to_tensor(gradient) for gradient in gradients])
    return gradients[0] if gradients else None
