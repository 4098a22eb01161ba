import numpy as np
import pytest
import tensorflow as tf
from refusals import refused

from ekd_tf.embedders import TFLiteEmbedder

MATRIX = np.cos(np.arange(48 * 5)).reshape(48, 5).astype(np.float32) / 255


# The converter's own modules warn of what they will drop.
pytestmark = pytest.mark.filterwarnings("ignore")


def convert(path, dtype=tf.uint8, batch=1, quantised=False):
    spec = tf.TensorSpec((batch, 4, 4, 3), dtype)
    function = tf.function(
        lambda x: tf.reshape(tf.cast(x, tf.float32), [batch, 48]) @ MATRIX, [spec]
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], tf.Module()
    )
    if quantised:
        rng = np.random.default_rng(0)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
        converter.representative_dataset = lambda: (
            [rng.uniform(0, 255, (1, 4, 4, 3)).astype(np.float32)] for _ in range(50)
        )
    path.write_bytes(converter.convert())
    return path


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (3, 4, 4, 3), np.uint8)


def test_takes_pixels_as_they_are(images, tmp_path):
    # Two at a time, of three.
    model = TFLiteEmbedder(convert(tmp_path / "m.tflite", batch=2))
    assert (model.input_size, model.embedding_dim, model.traceable) == (4, 5, False)
    found, expected = model(tf.constant(images)), images.reshape(3, 48) @ MATRIX
    assert found.dtype == np.float32
    # Sums of 48 products of up to 1, which LiteRT adds in an order of its own.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_float_models_get_scaled_pixels(images, tmp_path):
    path = convert(tmp_path / "m.tflite", tf.float32)
    model = TFLiteEmbedder(path, -1, 1)
    expected = (images / 127.5 - 1).reshape(3, 48) @ MATRIX
    np.testing.assert_allclose(model(images), expected, rtol=1e-4, atol=1e-6)
    assert model.fingerprint != TFLiteEmbedder(path).fingerprint


def test_integers_are_converted_by_their_scales(images, tmp_path):
    model = TFLiteEmbedder(convert(tmp_path / "m.tflite", tf.float32, quantised=True))
    found, expected = model(images), images.reshape(3, 48) @ MATRIX
    # Steps of 8 bits over the range of the outputs.
    np.testing.assert_allclose(found, expected, atol=0.1)
    assert np.abs(expected).max() > 1


def test_says_what_is_wrong(tmp_path):
    (tmp_path / "bad.tflite").write_bytes(b"no model")
    for name, words in (("none", ".*No such file"), ("bad", "")):
        words = f"{name}.tflite cannot be loaded: {words}"
        refused(words, TFLiteEmbedder, tmp_path / f"{name}.tflite")
