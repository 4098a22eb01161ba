"""ekd_tf.export.onnx_model: the student outside TensorFlow."""

import sys

import numpy as np
import pytest

from ekd_tf.embedders import OnnxEmbedder
from ekd_tf.export.onnx_model import convert_onnx
from ekd_tf.export.tflite import ConversionError


def test_onnxruntime_gives_the_same_embeddings(
    tmp_path, student, images, unit_embeddings
):
    pytest.importorskip("tf2onnx", reason="needs the extra onnx")
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    path = tmp_path / "s.onnx"
    path.write_bytes(convert_onnx(student))
    graph = onnx.load(path).graph
    assert [node.name for node in graph.input] == ["images"]
    assert [node.name for node in graph.output] == ["embedding"]
    embedder = OnnxEmbedder(path, num_threads=1)
    assert (embedder.input_size, embedder.embedding_dim) == (16, 24)
    expected = unit_embeddings(student, images)
    for batch in (1, 9):
        np.testing.assert_allclose(
            embedder(images[:batch]), expected[:batch], rtol=1e-4, atol=1e-6
        )


def test_a_failed_conversion_says_so(student, monkeypatch):
    tf2onnx = pytest.importorskip("tf2onnx", reason="needs the extra onnx")

    def fail(*args, **kwargs):
        raise RuntimeError("no such op: Einsum")

    monkeypatch.setattr(tf2onnx.convert, "from_function", fail)
    with pytest.raises(ConversionError, match="ONNX converter failed: no such op: Ein"):
        convert_onnx(student)


def test_what_must_be_installed_is_named(student, monkeypatch):
    # None makes the import fail, as where it is not installed.
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ValueError, match="needs tf2onnx and onnxruntime, and Tensor"):
        convert_onnx(student)
