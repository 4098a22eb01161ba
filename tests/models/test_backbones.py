import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from refusals import refused

from ekd_tf.models import IR
from ekd_tf.models import MBF
from ekd_tf.models import IResNet
from ekd_tf.models import MobileFaceNet
from ekd_tf.models import count_parameters
from ekd_tf.models import ghostfacenet
from ekd_tf.models.ghostfacenet import GhostFaceNet
from ekd_tf.models.mbf import GroupSum

TINY = {"embedding_dim": 16, "width": 0.125, "input_size": 32}
BUILDERS = {
    "mobilefacenet": MobileFaceNet,
    "iresnet18": lambda **arguments: IResNet(18, **arguments),
    "ir18": lambda **arguments: IR(18, **arguments),
    "mbf": MBF,
}


@pytest.fixture(params=BUILDERS)
def build(request, short_networks):
    return BUILDERS[request.param]


def norms_of(model):
    kind = keras.layers.BatchNormalization
    return [layer for layer in model.layers if isinstance(layer, kind)]


def test_names_shapes_saving_and_dropout(build, images, tmp_path):
    model = build(**TINY, dropout=0.9, name="teacher")
    assert model.input_shape == (None, 32, 32, 3) and model.name == "teacher"
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


def test_half_precision_stays_close_and_gives_float32(build, images, mixed_policy):
    # Which random network it is decides in the third digit.
    keras.utils.set_random_seed(0)
    reference = build(**TINY)
    for layer in norms_of(reference):
        layer.momentum = 0.0
    # Their statistics are then those of this batch.
    reference(images, training=True)
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
    assert model.name in BUILDERS
    first, *_ = norms = norms_of(model)
    mean = tf.reduce_mean(keras.Model(model.input, first.input)(images), [0, 1, 2])
    upstream = tf.cast(rng.normal(size=(8, 16)), tf.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(images, training=True) * upstream)
    # Momentum 0.9 from 0: once gives a tenth of the batch's mean, twice 0.19 of it.
    np.testing.assert_allclose(first.moving_mean, 0.1 * mean, rtol=1e-3, atol=1e-6)
    for layer in norms:
        assert (layer.epsilon, layer.momentum) == (1e-5, 0.9)
        assert np.any(tf.convert_to_tensor(layer.moving_mean).numpy() != 0)
    variables = model.trainable_variables
    for variable, gradient in zip(variables, tape.gradient(loss, variables)):
        assert np.any(gradient.numpy() != 0), variable.path
        assert np.all(np.isfinite(gradient.numpy())), variable.path


def test_rejects_arguments_by_name(build):
    for arguments, words in (
        ({"input_size": 100}, "`input_size` must be a multiple of 8 pixels from 32 up"),
        ({"input_size": 16}, "8 pixels from 32 up. Received: input_size=16"),
        ({"width": -1.0}, "`width` must be in (0, inf). Received: width=-1.0"),
        ({"width": float("nan")}, "`width` must be in (0, inf). Received: width=nan"),
        ({"embedding_dim": 0}, "`embedding_dim` must be in [1, inf). Received: "),
        ({"dropout": 1.0}, "`dropout` must be in [0, 1). Received: dropout=1.0"),
    ):
        refused(re.escape(words), build, **arguments)


def test_rejects_depths_variants_and_activations_there_are_not():
    refused("`depth` must be one of 18, 34, 50, 100, 200. Received", IResNet, 101)
    refused("`depth` must be one of 18, 34, 50, 101", IR, 100)
    refused("`variant` must be one of 'mbf', 'mbf_large'", MBF, "mbf_small")
    refused("must be one of 'prelu', 'relu'", MobileFaceNet, activation="swish")


def test_counts_what_is_learned_and_nothing_else():
    inputs = keras.Input(shape=(4, 4, 3))
    x = keras.layers.Conv2D(filters=5, kernel_size=3)(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(rate=0.5)(x)
    model = keras.Model(inputs, keras.layers.Flatten()(x))
    # Kernel and bias, scale and offset; two statistics and a seed left out.
    assert count_parameters(model) == (3 * 3 * 3 * 5 + 5) + 2 * 5
    model.trainable = False
    assert count_parameters(model) == 150


def test_default_mobilefacenet_is_the_papers():
    model = MobileFaceNet()
    assert count_parameters(model) == 1_199_488
    assert model.input_shape == (None, 112, 112, 3)
    assert model.output_shape == (None, 512)


def test_width_scales_every_channel_and_the_last_kernel_covers_what_is_left():
    # Four halvings of 56 pixels, rounded up: 28, 14, 7, 4.
    model = MobileFaceNet(embedding_dim=24, width=0.5, input_size=56)
    for name, shape in (
        ("conv1.conv", (3, 3, 3, 32)),
        ("conv_45.conv.conv", (1, 1, 64, 256)),
        ("conv_6_sep.conv", (1, 1, 64, 256)),
        ("output_layer.conv_6_dw.conv", (4, 4, 256, 1)),
    ):
        assert tuple(model.get_layer(name).weights[0].shape) == shape
    assert model.output_shape == (None, 24)


# Parameters of insightface's models, by torch, and blocks.
IRESNETS = {
    18: (24_025_600, 8),
    34: (34_139_328, 16),
    50: (43_590_848, 24),
    100: (65_156_160, 49),
    200: (118_833_920, 98),
}


@pytest.mark.parametrize(
    "depth",
    [18, *(pytest.param(d, marks=pytest.mark.slow) for d in (34, 50, 100, 200))],
)
def test_default_iresnets_have_the_reference_size(depth):
    model = IResNet(depth=depth)
    # Torch counts the last normalisation's constant scale, one per dimension.
    blocks = sum(layer.name.endswith(".add") for layer in model.layers)
    assert (count_parameters(model) + 512, blocks) == IRESNETS[depth]


def test_a_sum_over_groups_adds_what_each_channel_gives_to_an_output(run_as):
    # Two groups of two channels; channel c gives 10 c to the first output of its group
    # and 10 c + 1 to the second.
    given = np.array([0, 1, 10, 11, 20, 21, 30, 31], np.float32).reshape(1, 1, 1, 8)
    summed = run_as(GroupSum(2))(given)
    np.testing.assert_array_equal(np.ravel(summed), [10, 12, 50, 52])


def test_has_the_published_number_of_parameters():
    # 6,880,288 in all and 6,795,720 trained: HamadYA/GhostFaceNets, Flops.ipynb, of
    # GhostFaceNetV2-1.3-1. The paper's table: 6.88 M, and 4.09 M for V1.
    model = GhostFaceNet(version=2, width=1.3)
    assert (model.count_params(), count_parameters(model)) == (6_880_288, 6_795_720)
    model = GhostFaceNet(version=1, width=1.3)
    assert round(model.count_params() / 1e4) == 409


def test_embeds_in_every_size_and_stride(rng, monkeypatch):
    # Those that halve the image, the first and the last.
    stages = [ghostfacenet.STAGES[number] for number in (0, 1, 3, 5, 11, 15)]
    monkeypatch.setattr(ghostfacenet, "STAGES", stages)
    for version, size, stride in ((1, 32, 1), (2, 64, 2)):
        model = GhostFaceNet(version, 8, 0.25, stride, input_size=size)
        images = rng.integers(0, 256, (2, size, size, 3), np.uint8)
        embeddings = np.asarray(model(images, training=True))
        assert embeddings.shape == (2, 8) and np.isfinite(embeddings).all()
    # Resizing of Keras would put what is behind it into training mode.
    np.testing.assert_array_equal(model(images), model(images, training=False))


def test_refuses_sizes_its_strides_do_not_fit():
    refused("must be 64 or more with", GhostFaceNet, stem_stride=2, input_size=56)
    refused("`version` must be", GhostFaceNet, version=3)
