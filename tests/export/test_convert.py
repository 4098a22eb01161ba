import sys
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
import toys
from refusals import refused

from ekd_tf.embedders import OnnxEmbedder
from ekd_tf.embedders import TFLiteEmbedder
from ekd_tf.embedders.tflite_model import make_interpreter
from ekd_tf.export.convert import ConversionError
from ekd_tf.export.convert import convert_onnx
from ekd_tf.export.convert import convert_tflite
from ekd_tf.export.convert import tflite_ops

# What is left of the student of conftest.py when all that can be folded is: the two
# convolutions and the dense layer have taken in their BatchNorms, the pixel scaling
# stays before the padding, dropout and Flatten are gone.
FOLDED = {
    **dict.fromkeys(("CAST", "MUL", "ADD", "PAD", "PRELU"), 1),
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"), 1),
    "L2_NORMALIZATION": 1,
}
NOISE = np.random.default_rng(5).integers(0, 256, (64, 16, 16, 3), np.uint8)


def cosines(a, b):
    return np.sum(toys.unit(np.float64(a)) * toys.unit(np.float64(b)), axis=1)


def test_an_op_without_builtin_is_named():
    pixels = keras.layers.Input((8, 8, 3), dtype="uint8")
    planes = keras.layers.Permute((3, 1, 2))(keras.layers.Rescaling(1.0)(pixels))
    model = keras.Model(pixels, keras.layers.Lambda(tf.linalg.det)(planes))
    refused("builtins.*MatrixDeterminant", convert_tflite, model, error=ConversionError)


def test_floats_equal_the_keras_model_under_the_names_of_the_saved_model(
    student, tflite, images
):
    embedder = TFLiteEmbedder(tflite["float32"])
    expected = toys.unit_embeddings(student, images)
    np.testing.assert_allclose(embedder(images), expected, rtol=1e-4, atol=1e-6)
    assert embedder.partitions == 1
    interpreter = make_interpreter(tflite["float32"])
    (image,) = interpreter.get_input_details()
    assert image["shape_signature"].tolist() == [1, 16, 16, 3]
    assert image["dtype"] == np.uint8
    (signature,) = interpreter.get_signature_list().values()
    assert signature == {"inputs": ["images"], "outputs": ["embedding"]}
    rounded = TFLiteEmbedder(tflite["float16"])(images)
    assert cosines(rounded, expected).min() >= 0.9999
    # The weights did lose bits.
    assert np.abs(rounded - expected).max() > 1e-5


def test_everything_that_can_be_folded_is(tflite):
    assert tflite_ops(tflite["float32"]) == FOLDED
    assert tflite_ops(tflite["dynamic"]) == FOLDED
    ops = tflite_ops(tflite["float16"])
    # The widening of weights.
    assert ops.pop("DEQUANTIZE") >= 4
    assert ops == FOLDED


def test_float16_and_dynamic_take_a_half_and_a_quarter_of_the_space(images, tmp_path):
    # Wide enough that the weights outweigh the description of the graph.
    model = toys.make_student(width=128, dim=512)
    size = len(convert_tflite(model))
    assert 0.49 < len(convert_tflite(model, "float16")) / size < 0.56
    path = tmp_path / "s.tflite"
    path.write_bytes(convert_tflite(model, "dynamic"))
    assert 0.24 < path.stat().st_size / size < 0.35
    received = TFLiteEmbedder(path)(images)
    assert cosines(received, model(images, training=False)).min() > 0.99


@pytest.mark.parametrize("output", ["float32", "int8"])
def test_int8_takes_pixels_as_they_are_and_returns_the_raw_embedding(
    student, tflite, images, output, tmp_path
):
    before, path = student.get_weights(), tflite["int8"]
    if output == "int8":
        path = tmp_path / "s.tflite"
        # Dark images must not change the scale of pixels.
        path.write_bytes(convert_tflite(student, "int8", NOISE // 4, output))
    interpreter = make_interpreter(path)
    (image,) = interpreter.get_input_details()
    (embedding,) = interpreter.get_output_details()
    # Scale 1 and zero point 0: the pixel is the number.
    assert (image["dtype"], image["quantization"]) == (np.uint8, (1.0, 0))
    assert embedding["dtype"] == np.dtype(output).type
    (signature,) = interpreter.get_signature_list().values()
    assert signature == {"inputs": ["images"], "outputs": ["raw_embedding"]}
    # Nothing is left in float but the way out.
    ops = tflite_ops(path)
    assert ops.pop("QUANTIZE") == 1
    assert ops.pop("DEQUANTIZE", 0) == (output == "float32")
    assert ops.items() == FOLDED.items() - {("CAST", 1), ("L2_NORMALIZATION", 1)}
    if output == "float32":
        embedder = TFLiteEmbedder(path)
        raw = np.asarray(student(images, training=False))
        received = embedder(images)
        assert cosines(received, raw).mean() > 0.99
        np.testing.assert_allclose(received, raw, atol=0.1 * np.abs(raw).max())
        # XNNPACK has no int8 PRELU.
        assert embedder.partitions == 2
    # Equalised was a copy.
    for left, right in zip(student.get_weights(), before):
        np.testing.assert_array_equal(left, right)


def test_wrong_arguments_are_refused(student):
    representative = "give `representative`, 100 or more"
    for words, *arguments in (
        ("`precision` must be one of 'float32', 'floa", "float8"),
        (representative, "int8", None),
        (representative, "int8", NOISE[:0]),
        (r"uint8 \(n, 16, 16, 3\). Received: uint8", "int8", NOISE[:, :8]),
        ("`int8_output` must be one of", "int8", NOISE, "uint8"),
    ):
        refused(words, convert_tflite, student, *arguments)


def test_onnxruntime_gives_the_same_embeddings(tmp_path, student, images):
    pytest.importorskip("tf2onnx", reason="needs the extra onnx")
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    path = tmp_path / "s.onnx"
    path.write_bytes(convert_onnx(student))
    graph = onnx.load(path).graph
    assert [node.name for node in graph.input] == ["images"]
    assert [node.name for node in graph.output] == ["embedding"]
    embedder = OnnxEmbedder(path, num_threads=1)
    expected = toys.unit_embeddings(student, images)
    for part in (slice(1), slice(9)):
        received = embedder(images[part])
        np.testing.assert_allclose(received, expected[part], rtol=1e-4, atol=1e-6)


def test_says_why_there_is_no_onnx(student, monkeypatch):
    tf2onnx = pytest.importorskip("tf2onnx", reason="needs the extra onnx")

    fail = mock.Mock(side_effect=RuntimeError("no such op: Einsum"))
    monkeypatch.setattr(tf2onnx.convert, "from_function", fail)
    refused("failed: no such op: Ein", convert_onnx, student, error=ConversionError)
    # None makes the import fail, as where it is not installed.
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    refused("needs tf2onnx and onnxruntime, and Tensor", convert_onnx, student)
