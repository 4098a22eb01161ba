"""Updates of the rows a step has sampled, and of no others.

What becomes of a class centre outside the sample of a step is a choice. Here it is left
as it is: the centre, its momentum and its decay wait until the class is drawn again. A
step then costs what its sample does, in memory, time and communication. It is the
choice of Partial FC, whose steps see the sampled centres and their momentum alone; a
dense update would let every centre drift on with the momentum of past steps and decay,
by weights as large as all the classes. With momentum and decay the two differ, so
a sampled run is one of its own, and at a sample rate of 1 there is no difference.

Reference:
    An et al., 2022, arXiv:2203.15565, Partial FC; insightface `arcface_torch`,
    `partial_fc.py`, where the sub-centres and their sub-momentum are updated and
    written back.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from ekd_tf.keras_compat import current_learning_rate
from ekd_tf.keras_compat import sgd_momentum
from ekd_tf.keras_compat import tf_variable


def updates_rows(optimizer) -> bool:
    """Whether `update_rows` knows the optimizer: Keras' SGD, of any momentum."""
    return type(optimizer) is keras.optimizers.SGD


def split_rows(gradients: list, sampled: list[bool]) -> tuple[list, dict]:
    """Takes sampled gradients apart into values and rows; makes all others dense.

    Args:
        gradients: List of tensors or `tf.IndexedSlices`.
        sampled: Per gradient whether it names, where it is an `tf.IndexedSlices`,
            each row once, and the same ones on every replica.

    Returns:
        `(tensors, rows)`: a list of float tensors, `(n, ...)` for sampled gradients,
        and a dict of positions in it to the int tensor `(n,)` of the rows they are of.
    """
    tensors, rows = [], {}
    for position, (gradient, is_sampled) in enumerate(zip(gradients, sampled)):
        if is_sampled and isinstance(gradient, tf.IndexedSlices):
            rows[position] = gradient.indices
            gradient = gradient.values
        tensors.append(tf.convert_to_tensor(gradient))
    return tensors, rows


def update_rows(strategy, optimizer, variable, gradient, rows) -> None:
    """Makes a step of SGD on some rows of a variable and of its momentum.

    Does not count the step: `optimizer.iterations` is for who updates the rest.

    Args:
        strategy: The strategy whose cross-replica context this is called in.
        optimizer: One that `updates_rows`, built for `variable`.
        variable: Float variable `(count, ...)`.
        gradient: Float tensor `(n, ...)`, equal on all replicas.
        rows: Integer tensor `(n,)`, each row once, equal on all replicas.
    """
    rate = current_learning_rate(optimizer)
    momentum = sgd_momentum(optimizer, variable)
    slots = () if momentum is None else (momentum,)

    def update(target, gradient, rows, rate, *slots):
        gradient = tf.cast(gradient, target.dtype)
        change = -tf.cast(rate, target.dtype) * gradient
        for slot in slots:
            moved = optimizer.momentum * tf.gather(slot, rows) + change
            slot.scatter_update(tf.IndexedSlices(moved, rows))
            if optimizer.nesterov:
                change += optimizer.momentum * moved
            else:
                change = moved
        target.scatter_add(tf.IndexedSlices(change, rows))

    strategy.extended.update(
        tf_variable(variable), update, args=(gradient, rows, rate, *slots), group=False
    )
