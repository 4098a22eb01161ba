import keras
import numpy as np
import pytest
import tensorflow as tf
from toys import scatter

from ekd_tf.keras_compat import IS_KERAS_3
from ekd_tf.keras_compat import tf_variable
from ekd_tf.models.layers import BatchNormalization

SHAPE = (4, 3, 5, 6)


def make(kind, rng, **kwargs):
    layer = kind(epsilon=1e-5, momentum=0.9, **kwargs)
    layer.build((None, *SHAPE[1:]))
    weights = [rng.normal(size=w.shape).astype(np.float32) for w in layer.get_weights()]
    weights[-1] = np.abs(weights[-1]) + 0.5
    layer.set_weights(weights)
    return layer


def pair(rng, **kwargs):
    """Returns ours and Keras' with equal weights."""
    ours = make(BatchNormalization, rng, **kwargs)
    theirs = make(keras.layers.BatchNormalization, rng, **kwargs)
    theirs.set_weights(ours.get_weights())
    return ours, theirs


def forward_backward(layer, inputs, upstream, run=lambda f: f):
    @run
    def step(inputs, upstream):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs, training=True)
            loss = tf.reduce_sum(tf.cast(outputs, tf.float32) * upstream)
        sources = [inputs, *layer.trainable_variables]
        return outputs, tape.gradient(loss, sources)

    return step(tf.constant(inputs), tf.constant(upstream))


NEITHER = {"scale": False, "center": False}


@pytest.mark.parametrize(
    "run_as, kwargs",
    [("eager", {}), ("graph", NEITHER), ("xla", {})],
    indirect=["run_as"],
)
def test_equals_keras_in_value_and_gradient(rng, run_as, kwargs):
    inputs, upstream = rng.normal(2, 3, (2, *SHAPE)).astype(np.float32)
    ours, theirs = pair(rng, **kwargs)
    received, gradients = forward_backward(ours, inputs, upstream, run_as)
    expected, wanted = forward_backward(theirs, inputs, upstream)
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(gradients, wanted):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-5)


def test_moves_its_statistics_by_hand(rng):
    inputs = rng.normal(2, 3, SHAPE).astype(np.float32)
    layer = make(BatchNormalization, rng)
    mean, variance = layer.get_weights()[2:]
    layer(inputs, training=True)
    flat = inputs.reshape(-1, SHAPE[-1]).astype(np.float64)
    expected = 0.9 * mean + 0.1 * flat.mean(0)
    np.testing.assert_allclose(layer.moving_mean.numpy(), expected, rtol=1e-5)
    expected = 0.9 * variance + 0.1 * flat.var(0, ddof=1)
    np.testing.assert_allclose(layer.moving_variance.numpy(), expected, rtol=1e-5)


def test_inference_and_frozen_layers_use_and_keep_the_moving_statistics(rng):
    inputs = rng.normal(2, 3, SHAPE).astype(np.float32)
    ours, theirs = pair(rng)
    before = ours.get_weights()
    expected = theirs(inputs, training=False)
    np.testing.assert_allclose(ours(inputs, training=False), expected, atol=1e-5)
    ours.trainable = False
    np.testing.assert_allclose(ours(inputs, training=True), expected, atol=1e-5)
    for one, other in zip(before, ours.get_weights()):
        np.testing.assert_array_equal(one, other)


def test_statistics_stay_float32_under_half_precision(rng, mixed_policy):
    inputs = rng.normal(2, 3, SHAPE).astype(np.float32)
    exact = make(BatchNormalization, np.random.default_rng(0))
    expected = exact(inputs, training=True).numpy()
    mixed_policy("mixed_bfloat16")
    layer = make(BatchNormalization, np.random.default_rng(0))
    half = tf.cast(inputs, layer.compute_dtype)
    outputs = layer(half, training=True)
    assert outputs.dtype == layer.compute_dtype
    assert {np.dtype(w.dtype) for w in layer.get_weights()} == {np.dtype("float32")}
    np.testing.assert_allclose(tf.cast(outputs, tf.float32), expected, atol=0.1)
    expected = exact.moving_mean.numpy()
    np.testing.assert_allclose(layer.moving_mean.numpy(), expected, atol=2e-3)


def test_each_replica_keeps_statistics_of_its_own_rows(two_replicas):
    with two_replicas.scope():
        layer = BatchNormalization(momentum=0.5)
        layer.build((None, 2, 2, 3))
    rows = np.repeat(np.float32([4, 8]), 2 * 2 * 2 * 3).reshape(4, 2, 2, 3)

    @tf.function
    def step(inputs):
        two_replicas.run(lambda x: layer(x, training=True), args=(inputs,))

    step(scatter(two_replicas, rows))
    # Means 4 and 8, each half way from 0. What is saved is their mean on Keras 2 and
    # the first replica's on Keras 3.
    moving = two_replicas.experimental_local_results(tf_variable(layer.moving_mean))
    for one, other in zip(moving, (2.0, 4.0)):
        np.testing.assert_allclose(one.numpy(), [other] * 3, rtol=1e-6)
    saved = tf_variable(layer.moving_mean).numpy()
    np.testing.assert_allclose(saved, [2.0 if IS_KERAS_3 else 3.0] * 3, rtol=1e-6)
