"""tools/swap_activation.py: a PReLU student becomes a ReLU one."""

import pathlib

import keras
import numpy as np
import pytest
import swap_activation as tool
from commands import refuse
from commands import succeed
from refusals import refused

from ekd_tf.models import MobileFaceNet


@pytest.fixture
def model(rng):
    made = MobileFaceNet(width=0.125, input_size=32, embedding_dim=8)
    for layer in tool.prelu_layers(made):
        layer.alpha.assign(rng.uniform(-1, 1, layer.alpha.shape))
    return made


def test_after_the_glide_the_swap_changes_nothing(model, rng):
    images = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    before = np.asarray(model(images, training=False))
    layer = tool.prelu_layers(model)[0]
    start = layer.alpha.numpy()
    move = tool.slope_glide(model, "leaky_relu")
    move(0.0)
    np.testing.assert_array_equal(model(images, training=False), before)
    move(0.75)
    expected = 0.25 * start + 0.75 * 0.25
    np.testing.assert_allclose(layer.alpha, expected, rtol=1e-5)
    move(1.0)
    # The optimizer does not move them as well.
    assert not any(layer.alpha is w for w in model.trainable_weights)
    swapped = tool.swap_prelu(model, "leaky_relu")
    after = np.asarray(model(images, training=False))
    # Entries are of up to 130, one near 0.
    np.testing.assert_allclose(
        swapped(images, training=False), after, rtol=1e-4, atol=1e-3
    )
    assert np.abs(after - before).max() > 1e-3
    assert [new.name for new in swapped.layers] == [old.name for old in model.layers]
    # No slope is left.
    words = "`model` must have PReLU layers to swap. 'mo"
    refused(words, tool.swap_prelu, swapped, "relu")


def test_keras_own_prelu_is_swapped_too(rng):
    images = keras.Input((8, 8, 3))
    layer = keras.layers.PReLU(shared_axes=[1, 2], alpha_initializer="ones")
    model = keras.Model(images, keras.layers.Flatten()(layer(images)))
    pixels = rng.normal(size=(1, 8, 8, 3)).astype(np.float32)
    received = tool.swap_prelu(model, "relu")(pixels)
    np.testing.assert_allclose(received, np.maximum(pixels, 0).reshape(1, -1))
    tool.slope_glide(model, "relu")(0.75)
    np.testing.assert_allclose(layer.alpha, np.full((1, 1, 3), 0.25))
    words = "`activation` must be one of 'relu', 'leaky"
    refused(words, tool.swap_prelu, model, "gelu")


# The tests above are its fast siblings.
@pytest.mark.slow
def test_the_student_written_has_no_prelu_and_has_been_trained(model, tmp_path):
    program = pathlib.Path(tool.__file__)
    student, output = tmp_path / "prelu.keras", tmp_path / "relu.keras"
    model.save(student)
    arguments = [f"--model={student}", f"--output={output}"]
    done = refuse(program, *arguments)
    assert "is not the workdir of a run" in done.stderr
    arguments += ["--data=synthetic:identities=4,images=3,size=32", "--steps=2"]
    arguments += ["--balanced_identities=4", "--images_per_identity=2"]
    succeed(program, *arguments)
    after = keras.models.load_model(output, compile=False)
    kinds = {type(layer).__name__ for layer in after.layers}
    assert "ReLU" in kinds and "PReLU" not in kinds
    kernels = [m.get_layer("conv1.conv").kernel.numpy() for m in (model, after)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0
