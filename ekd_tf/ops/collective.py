"""Rows from all replicas, with the gradient a loss of the global batch needs."""

from __future__ import annotations

import tensorflow as tf


def num_replicas() -> int:
    """Returns how many replicas the current step runs on (1 without a strategy)."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def gather_rows(tensor: tf.Tensor) -> tf.Tensor:
    """Concatenates a tensor's rows over replicas, in replica order.

    Differentiable: its backward pass sums over replicas, so when every replica
    computes the loss of the global batch divided by `num_replicas()`, the summed
    gradients are those of one device on the concatenated batch. Shapes must be the same
    on each replica.
    """
    if num_replicas() == 1:
        return tensor
    # `identity` gives a tensor that comes straight from the dataset a device, which
    # the cross-host implementation needs.
    context = tf.distribute.get_replica_context()
    gathered = context.all_gather(tf.identity(tensor), axis=0)
    # Gathering forgets the shape, on which the losses decide how to go about a batch.
    rows = tensor.shape[0] and tensor.shape[0] * num_replicas()
    gathered.set_shape([rows, *tensor.shape[1:]])
    return gathered


def sum_over_replicas(tensor: tf.Tensor) -> tf.Tensor:
    """Adds tensors of one shape over replicas; each receives the sum."""
    if num_replicas() == 1:
        return tensor
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensor)


def mean_over_replicas(
    values: tf.Tensor, weights: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the weighted mean of all replicas' rows and the sum of their weights.

    Two float32 scalars, of two float32 tensors `(batch,)`; the mean of none is 0.
    """
    sums = [tf.reduce_sum(values * weights), tf.reduce_sum(weights)]
    total, count = tf.unstack(sum_over_replicas(tf.stack(sums)))
    return tf.math.divide_no_nan(total, count), count


def own_rows(variable: tf.Variable, rows: tf.Tensor) -> tf.Tensor:
    """Reads rows of this replica's copy of a variable, and no others.

    `tf.gather` of a distributed variable reads it whole first, and so does that of a
    Keras variable. The gradient by the variable, distributed or not, is a
    `tf.IndexedSlices`.
    """
    context = tf.distribute.get_replica_context()
    copies = tf.distribute.get_strategy().experimental_local_results(variable)
    number = 0
    if context is not None:
        # Replicas of one process have neighbouring numbers.
        number = tf.get_static_value(context.replica_id_in_sync_group) % len(copies)
    return tf.gather(copies[number], rows)
