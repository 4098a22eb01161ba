import numpy as np
import tensorflow as tf
from toys import scatter
from toys import value_and_gradient

from ekd_tf.ops.collective import gather_rows
from ekd_tf.ops.collective import num_replicas
from ekd_tf.ops.collective import own_rows
from ekd_tf.ops.collective import sum_over_replicas


def test_one_device_and_the_cross_replica_context_keep_a_tensor(rng, two_replicas):
    rows = tf.constant(rng.normal(size=(3, 2)))
    with two_replicas.scope():
        assert num_replicas() == 1
    assert num_replicas() == 1
    assert gather_rows(rows) is rows and sum_over_replicas(rows) is rows


def test_rows_come_in_replica_order_and_sums_are_of_all(rng, two_replicas):
    rows = rng.normal(size=(8, 3)).astype(np.float32)
    labels = np.arange(8, dtype=np.int32)

    @tf.function
    def step(rows, labels):
        def replica(rows, labels):
            assert gather_rows(rows).shape == (8, 3) and num_replicas() == 2
            return gather_rows(rows), gather_rows(labels), sum_over_replicas(rows)

        return two_replicas.run(replica, args=(rows, labels))

    results = step(scatter(two_replicas, rows), scatter(two_replicas, labels))
    results = map(two_replicas.experimental_local_results, results)
    for gathered, order, total in zip(*results):
        np.testing.assert_array_equal(gathered, rows)
        np.testing.assert_array_equal(order, labels)
        np.testing.assert_array_equal(total, rows[:4] + rows[4:])


def test_shares_of_the_global_loss_sum_to_its_gradient(rng, two_replicas):
    # The loss multiplies rows of different replicas, so each gradient needs them all:
    # d sum(X X^T * W) = (W + W^T) X.
    rows = rng.normal(size=(8, 3)).astype(np.float32)
    weights = rng.normal(size=(8, 8)).astype(np.float32)

    @value_and_gradient
    def share(rows):
        everyone = gather_rows(rows)
        gram = tf.matmul(everyone, everyone, transpose_b=True)
        return tf.reduce_sum(gram * weights) / num_replicas()

    step = tf.function(lambda rows: two_replicas.run(share, args=(rows,)))
    losses, grads = step(scatter(two_replicas, rows))
    gram = np.float64(rows) @ np.float64(rows).T
    total = sum(float(x) for x in two_replicas.experimental_local_results(losses))
    np.testing.assert_allclose(total, np.sum(gram * weights), rtol=1e-5)
    found = np.concatenate(two_replicas.experimental_local_results(grads))
    expected = (weights + weights.T) @ rows
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_own_rows_are_read_from_each_copy_and_nothing_else_is(rng, two_replicas):
    values = np.float32(rng.normal(size=(5, 3)))
    with two_replicas.scope():
        variable = tf.Variable(values)
    # Copies of different numbers, as no step would make them.
    for number, copy in enumerate(two_replicas.experimental_local_results(variable)):
        copy.assign_add(tf.fill((5, 3), float(number)))

    @tf.function
    def step():
        def replica():
            with tf.GradientTape() as tape:
                rows = own_rows(variable, tf.constant([3, 0]))
            return rows, tape.gradient(rows, variable).indices

        return two_replicas.run(replica)

    rows, indices = map(two_replicas.experimental_local_results, step())
    for number in range(two_replicas.num_replicas_in_sync):
        np.testing.assert_array_equal(rows[number], values[[3, 0]] + number)
        np.testing.assert_array_equal(indices[number], [3, 0])
    operations = step.get_concrete_function().graph.get_operations()
    kinds = {operation.type for operation in operations}
    assert "ResourceGather" in kinds and "ReadVariableOp" not in kinds


def test_own_rows_outside_a_replica_are_those_of_the_first(two_replicas):
    with two_replicas.scope():
        variable = tf.Variable([1.0, 2.0])
        np.testing.assert_array_equal(own_rows(variable, [1]), [2.0])
