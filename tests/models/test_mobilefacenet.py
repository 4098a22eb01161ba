"""MobileFaceNet: size, precision, saving, training, conversion to TFLite."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import (
    convert_variables_to_constants_v2,
)

from ekd_tf.models.mobilefacenet import MobileFaceNet
from ekd_tf.models.presets import count_parameters

TINY = {"embedding_dim": 16, "width": 0.25, "input_size": 32}


def random_images(rng, batch=4, size=32):
    return rng.integers(0, 256, (batch, size, size, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def settled():
    """A model whose batch normalisations have the statistics of random images."""
    # Which random network it is decides in the third digit of half precision.
    keras.utils.set_random_seed(0)
    model = MobileFaceNet(**TINY, dropout=0.2)
    images = random_images(np.random.default_rng(20220605), 16)
    step = tf.function(lambda: model(images, training=True), autograph=False)
    for _ in range(40):
        step()
    return model


def multiply_accumulates(model):
    """Counts those of convolutions and matrices from the layers' shapes."""
    total = 0
    for layer in model.layers:
        kinds = (keras.layers.DepthwiseConv2D, keras.layers.Conv2D, keras.layers.Dense)
        if isinstance(layer, kinds):
            # Each value of the kernel meets each place of the output once.
            places = int(np.prod(layer.output.shape[1:-1]))
            total += places * int(np.prod(layer.weights[0].shape))
    return total


def test_default_size_is_the_papers():
    model = MobileFaceNet()
    assert count_parameters(model) == 1_199_488
    assert round(multiply_accumulates(model) / 1e6) == 221
    assert model.input_shape == (None, 112, 112, 3)
    assert model.output_shape == (None, 512)
    assert model.input.dtype == "uint8"
    assert model.inputs[0].name == "image"
    assert model.output_names == ["embedding"]


def test_at_56_pixels_the_last_kernel_covers_what_is_left():
    # Four halvings, rounded up: 28, 14, 7, 4. So 16 weights in place of 49 for each of
    # the 512 channels.
    model = MobileFaceNet(input_size=56)
    assert count_parameters(model) == 1_199_488 - 512 * (49 - 16)
    assert model.output_shape == (None, 512)


def test_affine_last_normalisation_adds_a_scale_and_an_offset():
    plain = count_parameters(MobileFaceNet(**TINY))
    affine = count_parameters(MobileFaceNet(**TINY, last_bn_affine=True))
    assert affine - plain == 2 * TINY["embedding_dim"]


def test_only_prelu_learns_its_slopes():
    counts = {
        activation: count_parameters(MobileFaceNet(**TINY, activation=activation))
        for activation in ("prelu", "relu", "leaky_relu")
    }
    # conv1 and conv2_dw 16 each, twice the inner channels of 1 + 4 blocks of 32,
    # 1 + 6 of 64, 1 of 128 and 2 of 64, and conv_6_sep 128.
    slopes = 2 * 16 + 2 * (5 * 32 + 7 * 64 + 128 + 2 * 64) + 128
    assert counts["prelu"] - counts["relu"] == slopes
    assert counts["relu"] == counts["leaky_relu"]


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_activation_is_the_one_named(activation):
    model = MobileFaceNet(**TINY, activation=activation)
    kind = {"relu": keras.layers.ReLU, "leaky_relu": keras.layers.LeakyReLU}[activation]
    # Two per block of fifteen, conv1, conv2_dw and conv_6_sep.
    assert sum(isinstance(layer, kind) for layer in model.layers) == 2 * 15 + 3


def test_width_scales_every_channel_but_the_embedding():
    model = MobileFaceNet(embedding_dim=24, width=0.5, input_size=32)
    found = {
        name: tuple(model.get_layer(name).weights[0].shape)
        for name in ("conv1.conv", "conv_45.conv.conv", "conv_6_sep.conv")
    }
    assert found == {
        "conv1.conv": (3, 3, 3, 32),
        "conv_45.conv.conv": (1, 1, 64, 256),
        "conv_6_sep.conv": (1, 1, 64, 256),
    }
    assert model.output_shape == (None, 24)


@pytest.mark.parametrize("input_size", [32, 48, 112])
def test_last_depthwise_covers_the_whole_map(input_size):
    model = MobileFaceNet(**{**TINY, "input_size": input_size})
    kernel = model.get_layer("output_layer.conv_6_dw.conv").weights[0]
    assert tuple(kernel.shape[:2]) == (input_size // 16, input_size // 16)


def test_pixels_are_normalised_by_the_arguments(rng):
    images = random_images(rng)
    model = MobileFaceNet(**TINY)
    other = MobileFaceNet(**TINY, pixel_mean=100.0, pixel_scale=51.0)
    other.set_weights(model.get_weights())
    layer = other.get_layer("pixel_normalization")
    assert (layer.mean, layer.scale) == (100.0, 51.0)
    assert np.max(np.abs(model(images) - other(images))) > 1e-3


def test_half_precision_stays_close_and_gives_float32(settled, rng, mixed_policy):
    images = random_images(rng)
    expected = settled(images)
    for dtype, least_cosine in (("float16", 0.999), ("bfloat16", 0.98)):
        mixed_policy(f"mixed_{dtype}")
        model = MobileFaceNet(**TINY)
        model.set_weights(settled.get_weights())
        found = model(images)
        assert found.dtype == tf.float32
        assert model.get_layer("conv1.conv").compute_dtype == dtype
        cosine = -keras.losses.cosine_similarity(expected, found)
        assert np.min(cosine) > least_cosine
        assert np.max(np.abs(expected - found)) > 0


# Keras 3's own, when it saves a variable with NumPy 2.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")
def test_saved_file_gives_the_same_embeddings(settled, rng, tmp_path):
    images = random_images(rng)
    settled.save(str(tmp_path / "student.keras"))
    loaded = keras.models.load_model(str(tmp_path / "student.keras"))
    np.testing.assert_array_equal(loaded(images), settled(images))
    assert loaded.input.dtype == "uint8"
    assert loaded.output_names == ["embedding"]


def test_training_call_moves_every_normalisation_once(rng):
    model = MobileFaceNet(**TINY)
    first = model.get_layer("conv1.bn")
    images = random_images(rng)
    before = model(images)
    np.testing.assert_array_equal(first.moving_mean, np.zeros(16))
    inner = keras.Model(model.input, model.get_layer("conv1.conv").output)
    mean = tf.reduce_mean(inner(images), [0, 1, 2])
    model(images, training=True)
    # Momentum 0.9 from 0: once gives a tenth of the batch's mean, twice 0.19 of it.
    np.testing.assert_allclose(first.moving_mean, 0.1 * mean, rtol=1e-3, atol=1e-6)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            assert np.any(tf.convert_to_tensor(layer.moving_mean).numpy() != 0)
    assert np.any(model(images) != before)


def test_every_weight_receives_a_gradient(rng):
    model = MobileFaceNet(**TINY, last_bn_affine=True)
    with tf.GradientTape() as tape:
        embeddings = model(random_images(rng, 8), training=True)
        loss = tf.reduce_sum(embeddings * tf.cast(rng.normal(size=(8, 16)), tf.float32))
    variables = model.trainable_variables
    for variable, gradient in zip(variables, tape.gradient(loss, variables)):
        assert np.any(gradient.numpy() != 0), variable.path
        assert np.all(np.isfinite(gradient.numpy())), variable.path


def test_dropout_acts_in_training_only(rng):
    model = MobileFaceNet(**TINY, dropout=0.9)
    images = random_images(rng)
    np.testing.assert_array_equal(model(images), model(images))
    first, second = (model(images, training=True).numpy() for _ in range(2))
    assert np.max(np.abs(first - second)) > 1e-3


def converted(model):
    """Returns the model as TFLite float32, builtin operators only, batch of one."""
    embed = tf.function(lambda image: model(image, training=False), autograph=False)
    image = tf.TensorSpec((1, *model.input_shape[1:]), tf.uint8)
    # Frozen first: the converter would lose the variables of Keras 3.
    frozen = convert_variables_to_constants_v2(embed.get_concrete_function(image))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    return converter.convert()


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_tflite_equals_keras_with_fused_prelu(settled, rng):
    interpreter = tf.lite.Interpreter(model_content=converted(settled))
    # Read before tensors are allocated: XNNPACK then hides the file's operators.
    names = [operator["op_name"] for operator in interpreter._get_ops_details()]
    assert names.count("PRELU") == 33
    assert not {"RELU", "NEG", "SELECT", "SELECT_V2"} & set(names)
    interpreter.allocate_tensors()
    for image in random_images(rng):
        entry = interpreter.get_input_details()[0]
        interpreter.set_tensor(entry["index"], image[None])
        interpreter.invoke()
        found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        np.testing.assert_allclose(found, settled(image[None]), atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"activation": "swish"}, "`activation` must be one of 'prelu', 'relu', 'leak"),
        ({"input_size": 100}, "`input_size` must be a multiple of 8 pixels from 32"),
        ({"width": -1.0}, "`width` must be in (0, inf). Received: width=-1.0"),
        ({"embedding_dim": 0}, "`embedding_dim` must be in [1, inf). Received: "),
        ({"dropout": 1.0}, "`dropout` must be in [0, 1). Received: dropout=1.0"),
        ({"pixel_scale": 0.0}, "`scale` must be in (0, inf). Received: scale=0.0"),
    ],
)
def test_rejects_arguments_by_name(arguments, words):
    with pytest.raises(ValueError) as error:
        MobileFaceNet(**arguments)
    assert words in str(error.value)
