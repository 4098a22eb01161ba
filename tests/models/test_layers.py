import keras
import numpy as np
import pytest
import tensorflow as tf
from toys import value_and_gradient

from ekd_tf.models.blocks import activate
from ekd_tf.models.blocks import conv
from ekd_tf.models.blocks import scaled_channels
from ekd_tf.models.layers import NearestResize
from ekd_tf.models.layers import PixelNormalization
from ekd_tf.models.layers import PReLU
from ekd_tf.models.layers import prelu
from ekd_tf.models.layers import prelu_in_training

in_both_forms = pytest.mark.parametrize("function", [prelu, prelu_in_training])


def test_pixels_computed_by_hand():
    # 0 and 255 are the ends; 51 is a fifth of the way from -1 to 1.
    pixels = np.uint8([[0, 51, 255]])
    found = PixelNormalization()(pixels)
    np.testing.assert_allclose(found, [[-1.0, -0.6, 1.0]], atol=1e-7)
    other = PixelNormalization(mean=51.0, scale=2.0)
    np.testing.assert_allclose(other(pixels), [[-25.5, 0.0, 102.0]], rtol=1e-6)


def test_pixels_are_rounded_once(mixed_policy):
    # 100.3 is no bfloat16 number: rounding it first would be off by 0.3.
    mixed_policy("mixed_bfloat16")
    layer = PixelNormalization(mean=100.0, scale=1.0)
    outputs = layer(tf.constant([100.3]))
    assert outputs.dtype == layer.compute_dtype
    expected = tf.cast(tf.constant([100.3]) - 100.0, layer.compute_dtype)
    np.testing.assert_array_equal(outputs, expected)


@in_both_forms
def test_prelu_and_its_gradients_computed_by_hand(function, run_as):
    # Slopes 1/2 and 3. For a slope only negative inputs count, times what comes from
    # above: 2 * -3 + 5 * -1. An input of 0 is on the slope's side, as in torch.
    pixels = np.float32([-3, -1, 4, 0]).reshape(1, 1, 4, 1)
    inputs, slopes = np.repeat(pixels, 2, axis=3), np.float32([[[0.5, 3.0]]])
    above = np.float32([2, 5, 7, 9]).reshape(4, 1)
    step = run_as(value_and_gradient(lambda x: above * function(*x)))
    outputs, (to_inputs, to_slopes) = step((inputs, slopes))
    expected = np.transpose([[-1.5, -0.5, 4, 0], [-9, -3, 4, 0]])
    np.testing.assert_allclose(outputs[0, 0], above * expected)
    expected = above * [[0.5, 3], [0.5, 3], [1, 1], [0.5, 3]]
    np.testing.assert_allclose(to_inputs[0, 0], expected)
    np.testing.assert_allclose(to_slopes, [[[-11.0, -11.0]]])


@in_both_forms
@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_prelu_slope_gradient_is_summed_in_float32(function, dtype, run_as):
    # 90,000 ones: bfloat16 sums stop at 256, float16 overflows at 65,504.
    inputs = -tf.ones((1, 300, 300, 1), dtype)
    step = run_as(value_and_gradient(lambda slope: function(inputs, slope)))
    _, found = step(tf.constant([[[0.25]]]))
    np.testing.assert_array_equal(found, [[[-90000.0]]])


def test_prelu_layer_keeps_its_slope_in_float32(rng, mixed_policy):
    mixed_policy("mixed_bfloat16")
    layer = PReLU()
    inputs = tf.constant(rng.normal(size=(2, 3, 3, 4)), layer.compute_dtype)
    with tf.GradientTape() as tape:
        outputs = layer(inputs, training=True)
        loss = tf.reduce_sum(tf.cast(outputs, tf.float32))
    assert outputs.dtype == layer.compute_dtype
    assert tf.as_dtype(layer.alpha.dtype) == tf.float32
    gradient = tape.gradient(loss, layer.trainable_variables[0])
    assert gradient.dtype == tf.float32
    negative = np.minimum(tf.cast(inputs, tf.float32), 0.0)
    # Not rounded to half precision on its way.
    expected = negative.sum(axis=(0, 1, 2))
    np.testing.assert_allclose(np.ravel(gradient), expected, rtol=1e-6)


def test_nearest_resize_computed_by_hand():
    # Pixel i of 3 lies at (i + 1/2) 2/3 of 2: pixels 0, 1, 1; of 1: always pixel 0.
    layer = NearestResize((3, 2))
    images = np.float32([1, 2]).reshape(1, 2, 1, 1)
    outputs = np.asarray(layer(images))
    np.testing.assert_array_equal(outputs[0, :, :, 0], [[1, 1], [2, 2], [2, 2]])
    assert NearestResize.from_config(layer.get_config()).size == (3, 2)
    assert outputs.shape == layer.compute_output_shape((1, 2, 1, 1))


def test_channels_are_rounded_to_multiples_of_eight():
    # 19.2 is nearer to 16 than to 24; 20 is halfway: up.
    widths = (1.0, 0.25, 0.3, 0.35, 0.3125, 0.01, 3.0)
    assert [scaled_channels(64, w) for w in widths] == [64, 16, 16, 24, 24, 8, 192]


@pytest.mark.parametrize(("filters", "fan_out"), [(64, 3 * 3 * 64), (None, 3 * 3)])
def test_kernels_differ_and_vary_by_two_over_their_outputs(filters, fan_out):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape=(8, 8, 512))
    both = [conv(inputs, filters, 3, name) for name in ("c", "d")]
    model = keras.Model(inputs, both)
    kernel, other = (tf.convert_to_tensor(w).numpy() for w in model.weights)
    assert np.all(kernel != other)
    # At least 4,608 draws: the variance is known to 2.1 %, four times that is 8.4 %.
    np.testing.assert_allclose(kernel.var(), 2 / fan_out, rtol=0.085)


def test_activations_computed_by_hand():
    inputs = keras.Input(shape=(1, 1, 2))
    for activation, negative in (("prelu", -0.5), ("relu", 0.0), ("leaky_relu", -0.5)):
        model = keras.Model(inputs, activate(inputs, activation, "act"))
        found = model(np.float32([[[[-2.0, 3.0]]]]))
        np.testing.assert_allclose(found, [[[[negative, 3.0]]]])
        assert len(model.weights) == (activation == "prelu")
