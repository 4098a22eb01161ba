"""What every backbone does: precision, saving, training, refusals."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.models import IR
from ekd_tf.models import MBF
from ekd_tf.models import IResNet
from ekd_tf.models import MobileFaceNet
from ekd_tf.models import count_parameters

TINY = {"embedding_dim": 16, "width": 0.125, "input_size": 32}
BUILDERS = {
    "mobilefacenet": MobileFaceNet,
    "iresnet18": lambda **arguments: IResNet(18, **arguments),
    "ir18": lambda **arguments: IR(18, **arguments),
    "mbf": MBF,
}


@pytest.fixture(params=BUILDERS)
def build(request):
    return BUILDERS[request.param]


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (8, 32, 32, 3)).astype(np.uint8)


def test_names_shapes_saving_and_dropout(build, images, tmp_path):
    model = build(**TINY, dropout=0.9)
    assert model.input_shape == (None, 32, 32, 3)
    assert (model.input.dtype, model.inputs[0].name) == ("uint8", "image")
    assert model.output_shape == (None, 16)
    assert model.output_names == ["embedding"]
    before = model(images)
    np.testing.assert_array_equal(model(images), before)
    first, second = (model(images, training=True).numpy() for _ in range(2))
    assert np.max(np.abs(first - second)) > 1e-3
    # The training calls moved the statistics.
    assert np.any(model(images) != before)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded(images), model(images))
    assert build(**TINY, name="teacher").name == "teacher"


def test_half_precision_stays_close_and_gives_float32(build, images, mixed_policy):
    # Which random network it is decides in the third digit.
    keras.utils.set_random_seed(0)
    reference = build(**TINY)
    step = tf.function(lambda: reference(images, training=True), autograph=False)
    for _ in range(20):
        step()
    expected = reference(images)
    mixed_policy("mixed_bfloat16")
    model = build(**TINY)
    model.set_weights(reference.get_weights())
    embeddings = model(images)
    assert embeddings.dtype == tf.float32
    for name in ("flatten", "embedding"):
        assert model.get_layer(name).compute_dtype == "float32"
    assert any(layer.compute_dtype == "bfloat16" for layer in model.layers)
    assert np.min(-keras.losses.cosine_similarity(expected, embeddings)) > 0.95
    assert np.max(np.abs(expected - embeddings)) > 0


def test_training_moves_every_normalisation_once_and_every_weight(build, images, rng):
    model = build(**TINY)
    first = next(
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    )
    mean = tf.reduce_mean(keras.Model(model.input, first.input)(images), [0, 1, 2])
    upstream = tf.cast(rng.normal(size=(8, 16)), tf.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(images, training=True) * upstream)
    # Momentum 0.9 from 0: once gives a tenth of the batch's mean, twice 0.19 of it.
    np.testing.assert_allclose(first.moving_mean, 0.1 * mean, rtol=1e-3, atol=1e-6)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            assert (layer.epsilon, layer.momentum) == (1e-5, 0.9)
            assert np.any(tf.convert_to_tensor(layer.moving_mean).numpy() != 0)
    variables = model.trainable_variables
    for variable, gradient in zip(variables, tape.gradient(loss, variables)):
        assert np.any(gradient.numpy() != 0), variable.path
        assert np.all(np.isfinite(gradient.numpy())), variable.path


@pytest.mark.parametrize("name", ["mobilefacenet", "ir18"])
def test_affine_last_normalisation_adds_a_scale_and_an_offset(name):
    plain = count_parameters(BUILDERS[name](**TINY))
    affine = count_parameters(BUILDERS[name](**TINY, last_bn_affine=True))
    assert affine - plain == 2 * TINY["embedding_dim"]


def test_rejects_arguments_by_name(build):
    for arguments, words in (
        ({"input_size": 100}, "`input_size` must be a multiple of 8 pixels from 32 up"),
        ({"input_size": 16}, "8 pixels from 32 up. Received: input_size=16"),
        ({"width": -1.0}, "`width` must be in (0, inf). Received: width=-1.0"),
        ({"width": float("nan")}, "`width` must be in (0, inf). Received: width=nan"),
        ({"embedding_dim": 0}, "`embedding_dim` must be in [1, inf). Received: "),
        ({"dropout": 1.0}, "`dropout` must be in [0, 1). Received: dropout=1.0"),
    ):
        with pytest.raises(ValueError) as error:
            build(**arguments)
        assert words in str(error.value)


def test_rejects_depths_variants_and_activations_there_are_not():
    for call, words in (
        (lambda: IResNet(101), "`depth` must be one of 18, 34, 50, 100, 200. Received"),
        (lambda: IR(100), "`depth` must be one of 18, 34, 50, 101"),
        (lambda: MBF("mbf_small"), "`variant` must be one of 'mbf', 'mbf_large'"),
        (lambda: MobileFaceNet(activation="swish"), "must be one of 'prelu', 'relu'"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
