import keras
import numpy as np
import pytest
import tensorflow as tf
from updates import strategy_of

from ekd_tf.keras_compat import IS_KERAS_3
from ekd_tf.keras_compat import apply_reduced_gradients
from ekd_tf.keras_compat import build_optimizer
from ekd_tf.keras_compat import current_learning_rate
from ekd_tf.keras_compat import optimizer_variables
from ekd_tf.keras_compat import tf_variable

pytestmark = pytest.mark.both_stacks
# Where the optimizers of Keras 2 live that TensorFlow Addons builds upon.
SGDS = [keras.optimizers.SGD]
if not IS_KERAS_3:
    SGDS.append(keras.optimizers.legacy.SGD)


# That replicas take the step of one: tests/training/test_update.py.
def test_constraints_are_kept():
    strategy = strategy_of(2)
    with strategy.scope():
        unit = keras.constraints.UnitNorm(axis=1)
        layer = keras.layers.Dense(2, use_bias=False, kernel_constraint=unit)
        layer.build((None, 1))
        optimizer = keras.optimizers.SGD(learning_rate=0.1)
        optimizer.build([layer.kernel])

    @tf.function
    def step(gradient):
        # `all_reduce` wants a tensor made on a device, which an argument is not.
        strategy.run(
            lambda: apply_reduced_gradients(
                optimizer, [tf.identity(gradient)], [layer.kernel]
            )
        )

    step(tf.constant([[1.0, -0.5]]))
    for copy in strategy.experimental_local_results(tf_variable(layer.kernel)):
        np.testing.assert_allclose(np.linalg.norm(copy.numpy()), 1.0, rtol=1e-5)


@pytest.mark.parametrize("kind", SGDS)
def test_learning_rate_is_that_of_the_coming_update(kind):
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.5, 0.25])
    variable = tf.Variable(1.0)
    optimizer = kind(learning_rate=schedule)
    build_optimizer(optimizer, [variable])
    seen = []
    for _ in range(3):
        before = float(variable.numpy())
        rate = current_learning_rate(optimizer)
        optimizer.apply_gradients([(tf.constant(1.0), variable)])
        assert rate.dtype == tf.float32
        np.testing.assert_allclose(before - float(variable.numpy()), rate, rtol=1e-6)
        seen.append(float(rate))
    assert seen == [0.5, 0.25, 0.25]
    assert float(current_learning_rate(kind(learning_rate=0.125))) == 0.125


@pytest.mark.parametrize("kind", SGDS)
def test_state_is_whole_before_the_first_step(kind):
    variable = tf.Variable([1.0, 2.0])
    optimizer = kind(learning_rate=0.1, momentum=0.9)
    build_optimizer(optimizer, [variable])
    shapes = [tuple(v.shape) for v in optimizer_variables(optimizer)]
    build_optimizer(optimizer, [variable])
    optimizer.apply_gradients([(tf.constant([1.0, 1.0]), variable)])
    assert [tuple(v.shape) for v in optimizer_variables(optimizer)] == shapes
    assert (2,) in shapes
