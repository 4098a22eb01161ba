"""From a head's logits to the loss, and the check of labels that comes before."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from ekd_tf.checks import check_range


def margin_softmax_loss(logits, labels):
    """Returns each row's cross entropy between the softmax and its label.

    Args:
        logits: Float tensor `(batch, num_identities)`; computed in float32.
        labels: Integer tensor `(batch,)` in [0, num_identities).

    Returns:
        Float32 tensor `(batch,)` >= 0. Not averaged: the caller knows which rows
        count and how many there are over all replicas.
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=labels, logits=tf.cast(logits, tf.float32)
    )


def check_labels(labels, num_identities: int) -> None:
    """Raises `ValueError` naming the worst label outside [0, num_identities).

    For the host, before the first step: inside a step a label outside is an error on
    one device, a constant loss on another.

    Args:
        labels: Integer array of any shape, of a batch or of the whole dataset.
        num_identities: Int >= 1, the head's.
    """
    check_range("num_identities", num_identities, low=1)
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"`labels` must be integers. Received: dtype={labels.dtype}")
    labels = labels.astype(np.int64).ravel()
    excess = np.maximum(labels - (num_identities - 1), -labels)
    outside = int(np.count_nonzero(excess > 0))
    if outside == 0:
        return
    worst = int(np.argmax(excess))
    raise ValueError(
        f"`labels` must be in [0, {num_identities}). Received: label {labels[worst]} "
        f"at position {worst}; {outside} of {labels.size} labels are outside."
    )
