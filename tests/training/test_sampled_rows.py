"""Rows of a variable updated by themselves, and the others left as they are."""

import functools

import keras
import numpy as np
import tensorflow as tf
import updates

from ekd_tf.keras_compat import sgd_momentum
from ekd_tf.keras_compat import tf_variable
from ekd_tf.training.optimizers import make_optimizer
from ekd_tf.training.schedules import StepSchedule
from ekd_tf.training.update import GradientUpdate


class Run(updates.Run):
    """A table of which gradients name rows, and a bias that is whole."""

    def __init__(self, table, replicas=2, **arguments):
        super().__init__(replicas, weight=table, sampled=True, **arguments)

    def _strategy_step(self, rows, values):
        def replica():
            gradient = tf.IndexedSlices(values / self.replicas, rows, self.weight.shape)
            return self.update.apply([gradient, tf.constant([0.5]) / self.replicas])

        return self.strategy.run(replica)

    def step(self, rows, values):
        """Makes a step; returns the gradient's norm."""
        out = self._step(tf.constant(rows), tf.constant(values, tf.float32))
        return float(self.strategy.experimental_local_results(out["gradient_norm"])[0])


def test_two_steps_with_momentum_and_decay_by_hand():
    # Rate 0.1, momentum 0.9, decay 0.5, rows of one number, all 1 at first.
    # Row 0 is in the first step: g = 2 + 0.5, m = -0.25, w = 0.75. In the second it is
    # not: both stay, and the decay waits. Row 2 is in both: g = 4 + 0.5, m = -0.45,
    # w = 0.55; then g = 4 + 0.275, m = -0.405 - 0.4275 = -0.8325, w = -0.2825. Row 1 is
    # in the second alone: g = 1.5, m = -0.15, w = 0.85. Row 3 is in none.
    run = Run(np.ones((4, 1)), weight_decay=0.5)
    run.step([0, 2], [[2.0], [4.0]])
    run.step([1, 2], [[1.0], [4.0]])
    run.check(run.weight, [[0.75], [0.85], [-0.2825], [1]])
    momentum = sgd_momentum(run.optimizer, run.weight)
    run.check(momentum, [[-0.25], [-0.15], [-0.8325], [0]])
    # The bias is updated as ever: m = -0.05, then -0.095.
    run.check(run.bias, [1 - 0.05 - 0.095])
    assert run.iterations == 2


def test_a_clipped_step_of_nesterov_by_hand():
    # The gradients 1.2 and 0.5 have the norm 1.3 and are halved: m = -0.06 and -0.025,
    # of which the step adds 0.9 once more.
    sgd = functools.partial(keras.optimizers.SGD, momentum=0.9, nesterov=True)
    run = Run(np.ones((3, 1)), optimizer=sgd, weight_decay=0.0, clip_norm=0.65)
    np.testing.assert_allclose(run.step([1], [[1.2]]), 1.3, rtol=1e-6)
    run.check(run.weight, [[1], [1 - 1.9 * 0.06], [1]])
    run.check(run.bias, [1 - 1.9 * 0.025])


def test_a_skipped_step_leaves_rows_and_momenta():
    run = Run(np.ones((4, 1)), weight_decay=0.5)
    run.step([0, 2], [[2.0], [4.0]])
    before = run.snapshot()
    assert np.isnan(run.step([1, 2], [[1.0], [float("inf")]]))
    for held, kept in zip(run.snapshot(), before):
        np.testing.assert_array_equal(held, kept)
    assert run.state["skipped_steps"] == 1


def test_other_optimizers_update_every_row():
    # Adam's moments of a row it has seen move it on, sampled or not.
    run = Run(np.ones((3, 1)), replicas=0, optimizer="adam")
    run.step([0, 2], [[2.0], [4.0]])
    before = run.weight.numpy()
    run.step([2], [[4.0]])
    assert run.weight.numpy()[0, 0] < before[0, 0] - 0.01


def test_steps_of_rows_alone_are_counted():
    table = tf.Variable(tf.ones((3, 1)))
    schedule = StepSchedule(base=0.1, boundaries=[2])
    optimizer = make_optimizer("sgd", schedule, momentum=0.0)
    update = GradientUpdate(
        optimizer, [table], weight_decay=0.0, sampled_variables=[table]
    )
    for _ in range(3):
        update.apply([tf.IndexedSlices(tf.ones((1, 1)), tf.constant([1]), (3, 1))])
    # The third at the rate after the drop.
    np.testing.assert_allclose(table.numpy()[:, 0], [1, 1 - 0.21, 1], rtol=1e-6)
    assert int(tf_variable(optimizer.iterations).numpy()) == 3
