"""Tests for `ekd_tf.training.rollback`."""

import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.training.update import restore_unless


def make_variables():
    """The kinds of state there are: a loss's, BatchNorm's on Keras 3 and 2."""
    return [
        tf.Variable(
            [1.0, 2.0],
            trainable=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        ),
        tf.Variable(
            3.0,
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.MEAN,
        ),
        tf.Variable(4.0, trainable=False, aggregation=tf.VariableAggregation.MEAN),
    ]


@pytest.mark.parametrize("finite", [True, False])
@pytest.mark.parametrize("replicas", ["one", "two"])
def test_a_bad_step_leaves_the_state_as_it_was(finite, replicas, request):
    strategy = tf.distribute.get_strategy()
    if replicas == "two":
        strategy = request.getfixturevalue("two_replicas")
    with strategy.scope():
        variables = make_variables()

    @tf.function(autograph=False)
    def step(finite):
        def replica_step():
            before = [variable.read_value() for variable in variables]
            for variable in variables:
                variable.assign(variable * 10.0)
            restore_unless(finite, variables, before)

        strategy.run(replica_step)

    step(tf.constant(finite))
    factor = 10.0 if finite else 1.0
    for variable, value in zip(variables, ([1.0, 2.0], 3.0, 4.0)):
        for copy in strategy.experimental_local_results(variable):
            np.testing.assert_array_equal(copy.numpy(), np.multiply(value, factor))
