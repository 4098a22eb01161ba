"""Tests for `ekd_tf.training.update` on models, and of what it refuses."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.training.optimizers import make_optimizer
from ekd_tf.training.update import GradientUpdate


def strategy_of(replicas):
    if replicas == 0:
        return tf.distribute.get_strategy()
    # Collectives of a second strategy in one process clash with the first one's.
    return tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(replicas)],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


COLLECTIVES = """
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)

from ekd_tf.training.optimizers import make_optimizer
from ekd_tf.training.update import GradientUpdate

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    variables = [tf.Variable([1.0, 2.0]), tf.Variable([1.0])]
    update = GradientUpdate(
        make_optimizer("sgd", 0.1), variables, 0.0, loss_scaling="dynamic"
    )


@tf.function
def step(value):
    half = lambda v: update.scale_loss(value) * 0.5 * tf.ones_like(v)
    strategy.run(lambda: update.apply([half(v.read_value()) for v in variables]))


for value in (1.0, float("nan"), 2.0):
    step(tf.constant(value))
print([float(x) for v in variables for x in v.numpy()])
print(int(update.optimizer.iterations.numpy()))
"""


@pytest.mark.slow
def test_works_with_the_collectives_mirrored_strategy_chooses():
    # By hand, with one step skipped: m = -0.1, then -0.29, so all fall by 0.39.
    done = subprocess.run(
        [sys.executable, "-c", COLLECTIVES], capture_output=True, text=True, check=True
    )
    values, iterations = done.stdout.strip().splitlines()[-2:]
    np.testing.assert_allclose(json.loads(values), [0.61, 1.61, 0.61], rtol=1e-5)
    assert iterations == "2"


@pytest.mark.parametrize("replicas", [0, 2])
def test_mixed_float16_model_survives_an_overflow(mixed_policy, replicas):
    # The first scale overflows the float16 backward pass; halving finds one that
    # does not, and then the model learns y = 2 x.
    mixed_policy("mixed_float16")
    strategy = strategy_of(replicas)
    count = strategy.num_replicas_in_sync
    with strategy.scope():
        layer = keras.layers.Dense(units=1, use_bias=False)
        layer.build((None, 1))
        layer.kernel.assign([[1.0]])
        update = GradientUpdate(
            make_optimizer("sgd", 0.1, momentum=0.0),
            [layer.kernel],
            weight_decay=0.0,
            loss_scaling="dynamic",
            initial_scale=2.0**24,
        )

    def replica_step():
        x = tf.constant([[1.0], [2.0]])
        with tf.GradientTape() as tape:
            error = tf.cast(layer(x), tf.float32) - 2.0 * x
            loss = update.scale_loss(tf.reduce_mean(error**2) / count)
        return update.apply(tape.gradient(loss, [layer.kernel]))

    step = tf.function(lambda: strategy.run(replica_step))
    for _ in range(30):
        step()
    assert update.state["skipped_steps"].numpy() > 0
    assert update.state["loss_scale"].numpy() < 2.0**24
    np.testing.assert_allclose(layer.kernel.numpy(), [[2.0]], rtol=1e-2)


def test_sparse_gradients_are_made_dense():
    table = tf.Variable(tf.ones((4, 1)))
    update = GradientUpdate(
        make_optimizer("sgd", 0.1, momentum=0.0),
        [table],
        weight_decay=0.5,
        decay_variables=[table],
    )
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.gather(table, [1, 1, 3]))
    update.apply(tape.gradient(loss, [table]))
    # Rows 1 and 3 have gradients 2 and 1, and every row decays by 0.05.
    np.testing.assert_allclose(table.numpy()[:, 0], [0.95, 0.75, 0.95, 0.85], rtol=1e-6)


def test_keras_variables_may_decay():
    layer = keras.layers.Dense(units=1)
    layer.build((None, 1))
    layer.kernel.assign([[1.0]])
    update = GradientUpdate(
        make_optimizer("sgd", 0.1, momentum=0.0),
        layer.trainable_variables,
        weight_decay=0.5,
        decay_variables=[layer.kernel],
    )
    update.apply([tf.zeros((1, 1)), tf.zeros((1,))])
    np.testing.assert_allclose(layer.kernel.numpy(), [[0.95]], rtol=1e-6)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"weight_decay": -1.0}, "`weight_decay` must be in"),
        ({"clip_norm": 0.0}, "`clip_norm` must be in"),
        ({"loss_scaling": "static"}, "`loss_scaling` must be one of 'none', 'dynamic'"),
        ({"initial_scale": 0.5}, "`initial_scale` must be in"),
        ({"growth_steps": 0}, "`growth_steps` must be in"),
    ],
)
def test_rejects_wrong_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        GradientUpdate(make_optimizer("sgd", 0.1), [tf.Variable(1.0)], **arguments)


@pytest.mark.parametrize(
    "setting", [{"weight_decay": 0.1}, {"clipnorm": 1.0}, {"global_clipnorm": 1.0}]
)
def test_rejects_optimizers_that_decay_or_clip_themselves(setting):
    optimizer = keras.optimizers.SGD(learning_rate=0.1, **setting)
    with pytest.raises(ValueError, match=f"`{next(iter(setting))}`"):
        GradientUpdate(optimizer, [tf.Variable(1.0)])


def test_rejects_decay_variables_it_does_not_update():
    variables = [tf.Variable(1.0, name="a")]
    with pytest.raises(ValueError, match="`decay_variables` must be among.*stranger"):
        GradientUpdate(
            make_optimizer("sgd", 0.1),
            variables,
            decay_variables=[*variables, tf.Variable(1.0, name="stranger")],
        )


def test_rejects_a_variable_given_twice():
    variable = tf.Variable(1.0)
    with pytest.raises(ValueError, match="twice"):
        GradientUpdate(make_optimizer("sgd", 0.1), [variable, variable])


def test_rejects_missing_gradients_by_name():
    variables = [tf.Variable(1.0, name="used"), tf.Variable(1.0, name="unused")]
    update = GradientUpdate(make_optimizer("sgd", 0.1), variables)
    with pytest.raises(ValueError, match="does not depend on: unused"):
        update.apply([tf.constant(1.0), None])
    with pytest.raises(ValueError, match=r"one per variable \(2\). Received: 1"):
        update.apply([tf.constant(1.0)])
