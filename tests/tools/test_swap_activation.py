"""tools/swap_activation.py: a PReLU student becomes a ReLU one."""

import pathlib

import keras
import numpy as np
import pytest
from commands import run
from prelu_slopes import SlopeGlide
from prelu_slopes import prelu_layers
from prelu_slopes import swap_prelu

from ekd_tf.models import MobileFaceNet

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "swap_activation.py"


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    path = tmp_path_factory.mktemp("student") / "prelu.keras"
    MobileFaceNet(width=0.125, input_size=32, embedding_dim=8).save(path)
    return path


@pytest.fixture
def model(rng):
    made = MobileFaceNet(width=0.125, input_size=32, embedding_dim=8)
    for layer in prelu_layers(made):
        layer.alpha.assign(rng.uniform(-1, 1, layer.alpha.shape))
    return made


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_after_the_glide_the_swap_changes_nothing(model, images, activation):
    before = np.asarray(model(images, training=False))
    glide = SlopeGlide(model, activation)
    glide.at(0.0)
    np.testing.assert_array_equal(model(images, training=False), before)
    glide.at(1.0)
    swapped = swap_prelu(model, activation)
    after = np.asarray(model(images, training=False))
    np.testing.assert_allclose(swapped(images, training=False), after, rtol=1e-4)
    assert np.abs(after - before).max() > 1e-3
    assert [layer.name for layer in swapped.layers] == [
        layer.name for layer in model.layers
    ]
    # What the backbone itself has with that activation, and no slope is left.
    built = MobileFaceNet(
        width=0.125, input_size=32, embedding_dim=8, activation=activation
    )
    assert [w.shape for w in swapped.weights] == [w.shape for w in built.weights]


def test_the_slopes_move_in_a_line_and_not_by_the_optimizer(model):
    layer = prelu_layers(model)[0]
    start = layer.alpha.numpy()
    glide = SlopeGlide(model, "leaky_relu")
    glide.at(0.75)
    np.testing.assert_allclose(layer.alpha, 0.25 * start + 0.75 * 0.25, rtol=1e-5)
    assert not any(layer.alpha is w for w in model.trainable_weights)


def test_what_cannot_be_swapped_is_refused(model):
    relu = MobileFaceNet(width=0.125, input_size=32, embedding_dim=8, activation="relu")
    with pytest.raises(ValueError, match="`model` must have PReLU layers to swap. 'mo"):
        swap_prelu(relu, "relu")
    with pytest.raises(ValueError, match="`activation` must be one of 'relu', 'leaky"):
        swap_prelu(model, "gelu")
    with pytest.raises(ValueError, match=r"`fraction` must be in \[0, 1\]"):
        SlopeGlide(model, "relu").at(1.5)


def test_keras_own_prelu_is_swapped_too(rng):
    images = keras.Input((8, 8, 3))
    x = keras.layers.PReLU(shared_axes=[1, 2], name="act")(images)
    model = keras.Model(images, keras.layers.Flatten()(x))
    pixels = rng.normal(size=(1, 8, 8, 3)).astype(np.float32)
    received = swap_prelu(model, "relu")(pixels)
    np.testing.assert_allclose(received, np.maximum(pixels, 0).reshape(1, -1))


# The tests above are its fast siblings.
@pytest.mark.slow
def test_the_student_written_has_no_prelu_and_has_been_trained(student, tmp_path):
    output = tmp_path / "relu.keras"
    done = run(
        TOOL,
        f"--model={student}",
        f"--output={output}",
        "--data=synthetic:identities=4,images=3,size=32",
        "--steps=2",
        "--balanced_identities=4",
        "--images_per_identity=2",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    before = keras.models.load_model(student, compile=False)
    after = keras.models.load_model(output, compile=False)
    kinds = {type(layer).__name__ for layer in after.layers}
    assert "ReLU" in kinds and "PReLU" not in kinds
    name = "conv1.conv"
    moved = after.get_layer(name).kernel - before.get_layer(name).kernel
    assert float(abs(moved.numpy()).max()) > 0


@pytest.mark.slow
def test_a_mistake_ends_in_one_line(student):
    done = run(TOOL, f"--model={student}", "--output=x.keras")
    assert done.returncode == 1
    assert "is not the workdir of a run" in done.stderr
    assert "Traceback" not in done.stderr
