"""`EKDLoss` on several replicas against one device on the concatenated batch."""

import numpy as np
import pytest
import tensorflow as tf
from toys import scatter
from toys import value_and_gradient

from ekd_tf.losses import EKDLoss
from ekd_tf.ops.collective import gather_rows
from ekd_tf.ops.collective import num_replicas

ROWS = 16


def batch_of(rng):
    labels = rng.integers(0, 5, ROWS).astype(np.int32)
    centres = rng.normal(size=(5, 6))[labels]
    return (
        np.float32(centres + rng.normal(size=(ROWS, 6))),
        np.float32(centres @ rng.normal(size=(6, 9)) + rng.normal(size=(ROWS, 9))),
        labels,
        np.int32(np.arange(ROWS) // 2 * 2),
    )


def replica_step(loss, weights, student, teacher, labels, image_ids):
    """What a trainer does on a replica: a linear student, its share of the loss."""

    def share(weights):
        student_rows = tf.matmul(student, weights)
        rows = map(gather_rows, (student_rows, teacher, labels, image_ids))
        return sum(loss(*rows).values()) / num_replicas()

    return value_and_gradient(share)(weights)


@pytest.mark.parametrize("thresholds", ["ema", "histogram"])
def test_replicas_compute_what_one_device_does(rng, two_replicas, thresholds):
    def make():
        return EKDLoss(5, 9, thresholds=thresholds, memory=50, momentum=0.3)

    weights = tf.constant(rng.normal(size=(6, 5)), tf.float32)
    alone = make()
    with two_replicas.scope():
        shared = make()

    def replica(*batch):
        return replica_step(shared, weights, *batch)

    step = tf.function(lambda *batch: two_replicas.run(replica, args=batch))

    for _ in range(3):
        batch = batch_of(rng)
        expected, gradient = replica_step(alone, weights, *batch)
        shares, gradients = step(*(scatter(two_replicas, rows) for rows in batch))
        total = sum(two_replicas.experimental_local_results(shares))
        summed = sum(two_replicas.experimental_local_results(gradients))
        np.testing.assert_allclose(total, expected, rtol=1e-5)
        scale = np.abs(gradient).max()
        np.testing.assert_allclose(summed, gradient, rtol=1e-4, atol=1e-5 * scale)
        for one, many in zip(alone.variables, shared.variables):
            np.testing.assert_allclose(np.array(many), np.array(one), atol=1e-6)
