"""What models of every format have in common."""

import numpy as np
import pytest
import tensorflow as tf
from matrix_models import draw
from matrix_models import embed
from matrix_models import write_keras
from matrix_models import write_onnx
from matrix_models import write_saved_model
from matrix_models import write_tflite
from refusals import refused

from ekd_tf.embedders import open_embedder

# The converter's own modules warn of what they will drop.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(
    "write", [write_keras, write_saved_model, write_tflite, write_onnx]
)
def test_a_fixed_batch_is_filled_up(rng, tmp_path, write):
    model = open_embedder(str(write(tmp_path, "uint8", (4, 4, 4, 3))))
    assert (model.input_size, model.embedding_dim) == (4, 5)
    traced = tf.function(model, [tf.TensorSpec((None, 4, 4, 3), tf.uint8)])
    calls = [model, traced] if model.traceable else [model]
    for count in (1, 4, 6):
        images = draw(rng, count)
        for call in calls:
            found = call(tf.constant(images))
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, embed(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("write", "dtype", "shape"),
    [
        (write_saved_model, "float32", (None, 3, 4, 4)),
        (write_tflite, "float32", (1, 4, 4, 3)),
        (write_onnx, "float16", ("N", 4, 4, 3)),
        (write_onnx, "float32", (2, 3, 4, 4)),
    ],
)
def test_floats_are_scaled_and_ordered_as_asked(rng, tmp_path, write, dtype, shape):
    path, images = write(tmp_path, dtype, shape), draw(rng)
    model = open_embedder(f"{path}@-1..1@bgr")
    pixels = (images[..., ::-1] / 127.5 - 1).astype(dtype).astype(np.float32)
    pixels = pixels.transpose(0, 3, 1, 2) if shape[1] == 3 else pixels
    np.testing.assert_allclose(model(images), embed(pixels), rtol=1e-4, atol=1e-5)
    assert model.fingerprint != open_embedder(str(path)).fingerprint


def test_integers_of_tflite_are_converted_by_their_scales(rng, tmp_path):
    model = open_embedder(str(write_tflite(tmp_path, "float32", quantised=True)))
    images = draw(rng)
    # Steps of 8 bits over the range of the outputs.
    np.testing.assert_allclose(model(images), embed(images), atol=0.1)
    assert np.abs(embed(images)).max() > 1


def test_a_missing_or_damaged_tflite_is_named(tmp_path):
    (tmp_path / "bad.tflite").write_bytes(b"no model")
    for name, words in (("none", "does not exist"), ("bad", "cannot be loaded: ")):
        path = str(tmp_path / f"{name}.tflite")
        refused(f"{name}.tflite {words}", open_embedder, path)
