"""IResNet: exact sizes of all depths, precision, saving, training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.models.iresnet import IResNet
from ekd_tf.models.presets import count_parameters

TINY = {"depth": 18, "embedding_dim": 16, "width": 0.125, "input_size": 32}

# Of insightface's models, by torch.
PARAMETERS = {
    18: 24_025_600,
    34: 34_139_328,
    50: 43_590_848,
    100: 65_156_160,
    200: 118_833_920,
}
BLOCKS = {18: 8, 34: 16, 50: 24, 100: 49, 200: 98}


def random_images(rng, batch=4):
    return rng.integers(0, 256, (batch, 32, 32, 3)).astype(np.uint8)


def check_size(depth):
    model = IResNet(depth=depth)
    # Torch counts the last normalisation's constant scale, one per dimension.
    assert count_parameters(model) + 512 == PARAMETERS[depth]
    assert sum(layer.name.endswith(".add") for layer in model.layers) == BLOCKS[depth]


@pytest.mark.parametrize("depth", [18, 50])
def test_default_width_has_the_reference_size(depth):
    check_size(depth)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [34, 100, 200])
def test_default_width_has_the_reference_size_at_the_other_depths(depth):
    check_size(depth)


@pytest.mark.parametrize("depth", [34, 100, 200])
def test_depths_differ_by_whole_blocks(depth):
    """The sizes of the other depths, from iresnet18 and the blocks they add."""
    # A later block of c channels: two 3x3 kernels, three normalisations, slopes.
    block = [2 * 9 * c * c + 3 * 2 * c + c for c in (64, 128, 256, 512)]
    extra = {34: (1, 2, 4, 1), 100: (1, 11, 28, 1), 200: (4, 24, 58, 4)}[depth]
    added = sum(size * count for size, count in zip(block, extra))
    assert PARAMETERS[18] + added == PARAMETERS[depth]
    tiny = IResNet(**{**TINY, "depth": depth})
    assert sum(layer.name.endswith(".add") for layer in tiny.layers) == BLOCKS[depth]


def test_names_shapes_and_types_of_input_and_output():
    model = IResNet(**TINY)
    assert model.name == "iresnet18"
    assert IResNet(**TINY, name="teacher").name == "teacher"
    assert model.input_shape == (None, 32, 32, 3)
    assert model.input.dtype == "uint8"
    assert model.output_shape == (None, 16)
    assert model.inputs[0].name == "image"
    assert model.output_names == ["embedding"]


def test_width_scales_every_channel_but_the_embedding():
    model = IResNet(depth=18, embedding_dim=24, width=0.25, input_size=32)
    found = {
        name: tuple(model.get_layer(name).weights[0].shape)
        for name in ("conv1", "layer2.0.conv1", "layer4.1.conv2", "fc")
    }
    assert found == {
        "conv1": (3, 3, 3, 16),
        "layer2.0.conv1": (3, 3, 16, 32),
        "layer4.1.conv2": (3, 3, 128, 128),
        "fc": (2 * 2 * 128, 24),
    }


def test_half_precision_stays_close_and_gives_float32(rng, mixed_policy):
    images = random_images(rng)
    reference = IResNet(**TINY)
    mixed_policy("mixed_bfloat16")
    model = IResNet(**TINY)
    model.set_weights(reference.get_weights())
    expected, found = reference(images), model(images)
    assert found.dtype == tf.float32
    assert np.min(-keras.losses.cosine_similarity(expected, found)) > 0.99
    assert np.max(np.abs(expected - found)) > 0


# Keras 3's own, when it saves a variable with NumPy 2.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")
def test_saved_file_gives_the_same_embeddings(rng, tmp_path):
    images = random_images(rng)
    model = IResNet(**TINY, dropout=0.4)
    model(images, training=True)
    model.save(str(tmp_path / "teacher.keras"))
    loaded = keras.models.load_model(str(tmp_path / "teacher.keras"))
    np.testing.assert_array_equal(loaded(images), model(images))


def test_training_call_moves_every_normalisation_once(rng):
    model = IResNet(**TINY)
    images = random_images(rng)
    inner = keras.Model(model.input, model.get_layer("conv1").output)
    mean = tf.reduce_mean(inner(images), [0, 1, 2])
    model(images)
    np.testing.assert_array_equal(model.get_layer("bn1").moving_mean, np.zeros(8))
    model(images, training=True)
    np.testing.assert_allclose(
        model.get_layer("bn1").moving_mean, 0.1 * mean, rtol=1e-3, atol=1e-6
    )
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            assert np.any(tf.convert_to_tensor(layer.moving_mean).numpy() != 0)


def test_last_normalisation_learns_an_offset_and_no_scale():
    layer = IResNet(**TINY).get_layer("features")
    assert [tuple(w.shape) for w in layer.trainable_weights] == [(16,)]
    assert layer.center and not layer.scale


def test_every_weight_receives_a_gradient(rng):
    model = IResNet(**TINY)
    with tf.GradientTape() as tape:
        embeddings = model(random_images(rng, 8), training=True)
        loss = tf.reduce_sum(embeddings * tf.cast(rng.normal(size=(8, 16)), tf.float32))
    variables = model.trainable_variables
    for variable, gradient in zip(variables, tape.gradient(loss, variables)):
        assert np.all(np.isfinite(gradient.numpy())), variable.path
        assert np.any(gradient.numpy() != 0), variable.path


def test_dropout_acts_in_training_only(rng):
    model = IResNet(**TINY, dropout=0.9)
    images = random_images(rng)
    np.testing.assert_array_equal(model(images), model(images))
    first, second = (model(images, training=True).numpy() for _ in range(2))
    assert np.max(np.abs(first - second)) > 1e-3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"depth": 101}, "`depth` must be one of 18, 34, 50, 100, 200. Received: 101."),
        ({"input_size": 60}, "`input_size` must be a multiple of 8 pixels from 32"),
        ({"width": 0.0}, "`width` must be in (0, inf). Received: width=0.0"),
        ({"embedding_dim": 0}, "`embedding_dim` must be in [1, inf). Received: "),
        ({"dropout": 1.0}, "`dropout` must be in [0, 1). Received: dropout=1.0"),
    ],
)
def test_rejects_arguments_by_name(arguments, words):
    with pytest.raises(ValueError) as error:
        IResNet(**arguments)
    assert words in str(error.value)
