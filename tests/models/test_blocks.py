"""Sizes, padding and initial weights of the pieces both backbones use."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.models import blocks
from ekd_tf.models.blocks import activate
from ekd_tf.models.blocks import batch_norm
from ekd_tf.models.blocks import check_backbone
from ekd_tf.models.blocks import conv
from ekd_tf.models.blocks import embedding_output
from ekd_tf.models.blocks import image_input
from ekd_tf.models.blocks import scaled_channels

VALID = {"embedding_dim": 8, "width": 1.0, "input_size": 112, "dropout": 0.0}


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [
        (64, 1.0, 64),
        (64, 0.25, 16),
        (64, 0.3, 16),  # 19.2 is nearer to 16 than to 24
        (64, 0.35, 24),  # 22.4
        (64, 0.3125, 24),  # 20, halfway: up
        (64, 0.01, 8),
        (128, 1.5, 192),
    ],
)
def test_channels_are_rounded_to_multiples_of_eight(channels, width, expected):
    assert scaled_channels(channels, width) == expected


@pytest.mark.parametrize("input_size", [32, 48, 64, 112, 128])
def test_accepts_multiples_of_sixteen(input_size):
    check_backbone(**{**VALID, "input_size": input_size})


@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [
        ("input_size", 100, "multiple of 8 pixels from 32 up. Received: input_size=1"),
        ("input_size", 16, "multiple of 8 pixels from 32 up. Received: input_size=16"),
        ("embedding_dim", 0, "`embedding_dim` must be in [1, inf). Received: "),
        ("width", 0.0, "`width` must be in (0, inf). Received: width=0.0"),
        ("width", float("nan"), "`width` must be in (0, inf). Received: width=nan"),
        ("dropout", 1.0, "`dropout` must be in [0, 1). Received: dropout=1.0"),
        ("dropout", -0.1, "`dropout` must be in [0, 1). Received: dropout=-0.1"),
    ],
)
def test_rejects_sizes_no_backbone_has(argument, value, words):
    with pytest.raises(ValueError) as error:
        check_backbone(**{**VALID, argument: value})
    assert words in str(error.value)


def conv_torch(image, kernel, stride, padding):
    """Torch's convolution of one channel, as loops."""
    padded = np.pad(image, padding)
    size = len(kernel)
    rows = range(0, len(padded) - size + 1, stride)
    return np.array(
        [
            [np.sum(padded[i : i + size, j : j + size] * kernel) for j in rows]
            for i in rows
        ]
    )


@pytest.mark.parametrize("filters", [1, None], ids=["full", "depthwise"])
@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [7, 8])
def test_convolution_pads_as_torch_does(rng, filters, kernel_size, stride, size):
    inputs = keras.Input(shape=(size, size, 1))
    outputs = conv(inputs, filters, kernel_size, "c", stride=stride)
    model = keras.Model(inputs, outputs)
    kernel = rng.normal(size=(kernel_size, kernel_size, 1, 1))
    model.get_layer("c").weights[0].assign(kernel)
    image = rng.normal(size=(size, size))
    expected = conv_torch(image, kernel[:, :, 0, 0], stride, kernel_size // 2)
    found = model(image[None, :, :, None].astype(np.float32))
    np.testing.assert_allclose(found[0, :, :, 0], expected, rtol=1e-4, atol=1e-5)


def test_unpadded_convolution_of_full_size_leaves_one_pixel():
    inputs = keras.Input(shape=(4, 4, 8))
    assert conv(inputs, None, 4, "c", padded=False).shape == (None, 1, 1, 8)


@pytest.mark.parametrize(
    ("filters", "fan_out"), [(64, 3 * 3 * 64), (None, 3 * 3)], ids=["full", "depthwise"]
)
def test_initial_variance_is_two_over_the_channels_outputs(filters, fan_out):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape=(8, 8, 512))
    model = keras.Model(inputs, conv(inputs, filters, 3, "c"))
    kernel = tf.convert_to_tensor(model.get_layer("c").weights[0]).numpy()
    # At least 4,608 draws: the variance is known to 2.1 %, four times that is 8.4 %.
    np.testing.assert_allclose(kernel.var(), 2 / fan_out, rtol=0.085)


def test_kernels_of_one_shape_start_differently():
    x = inputs = keras.Input(shape=(8, 8, 8))
    for name in ("a", "b"):
        x = conv(x, 8, 3, name)
    model = keras.Model(inputs, x)
    first, second = (tf.convert_to_tensor(w) for w in model.weights)
    assert np.all(first.numpy() != second.numpy())


def test_batch_norm_has_torchs_constants():
    inputs = keras.Input(shape=(4, 4, 8))
    layer = keras.Model(inputs, batch_norm(inputs, "bn")).get_layer("bn")
    assert layer.epsilon == 1e-5
    assert layer.momentum == 0.9


@pytest.mark.parametrize(
    ("activation", "expected"),
    [("prelu", [-0.5, 3.0]), ("relu", [0.0, 3.0]), ("leaky_relu", [-0.5, 3.0])],
)
def test_activations_computed_by_hand(activation, expected):
    inputs = keras.Input(shape=(1, 1, 2))
    model = keras.Model(inputs, activate(inputs, activation, "act"))
    found = model(np.float32([[[[-2.0, 3.0]]]]))
    np.testing.assert_allclose(found, [[[expected]]])
    assert len(model.weights) == (activation == "prelu")


def test_unknown_activation_names_the_choices():
    with pytest.raises(ValueError, match="`activation` must be one of 'prelu', 'relu'"):
        activate(keras.Input(shape=(1, 1, 2)), "swish", "act")
    assert blocks.ACTIVATIONS == ("prelu", "relu", "leaky_relu")


def test_image_input_takes_uint8_under_its_name():
    image, pixels = image_input(32, 0.0, 255.0)
    model = keras.Model(image, pixels)
    assert model.input.dtype == "uint8"
    assert model.inputs[0].name == "image"
    found = model(np.full((1, 32, 32, 3), 255, np.uint8))
    np.testing.assert_allclose(found, np.ones((1, 32, 32, 3)), rtol=1e-6)


def test_embedding_output_stays_float32_after_half_precision_features(mixed_policy):
    mixed_policy("mixed_bfloat16")
    features = keras.Input(shape=(2, 2, 8))
    outputs = embedding_output(
        features, 16, 0.5, linear="fc", norm="bn", use_bias=True, scale=False
    )
    model = keras.Model(features, outputs)
    for name in ("flatten", "dropout", "fc", "bn", "embedding"):
        assert model.get_layer(name).compute_dtype == "float32"
    assert model.output_names == ["embedding"]
    assert len(model.get_layer("fc").weights) == 2
    # An offset and the two statistics, no scale.
    assert len(model.get_layer("bn").weights) == 3
