"""ekd_tf.export.onnx_model: the student outside TensorFlow."""

import sys

import numpy as np
import pytest

from ekd_tf.export.onnx_model import OnnxModel
from ekd_tf.export.onnx_model import convert_onnx
from ekd_tf.export.tflite import ConversionError


@pytest.fixture(scope="module")
def path(saved, tmp_path_factory):
    pytest.importorskip("tf2onnx", reason="needs the extra onnx")
    path = tmp_path_factory.mktemp("onnx") / "s.onnx"
    path.write_bytes(convert_onnx(saved))
    return path


def test_onnxruntime_gives_the_same_embeddings(path, student, images, unit_embeddings):
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    graph = onnx.load(path).graph
    assert [node.name for node in graph.input] == ["images"]
    assert [node.name for node in graph.output] == ["embedding"]
    run = OnnxModel(path)
    assert run.image_shape == (16, 16, 3)
    expected = unit_embeddings(student, images)
    for batch in (1, 9):
        np.testing.assert_allclose(
            run(images[:batch]), expected[:batch], rtol=1e-4, atol=1e-6
        )
    median, p95 = run.latency(images, repeats=10)
    assert 0 < median <= p95


def test_other_images_are_refused(path, images):
    with pytest.raises(ValueError, match=r"uint8 \(n, 16, 16, 3\). Received: uint8"):
        OnnxModel(path)(images[:, :8])


@pytest.mark.parametrize(
    ("kind", "shape"), [("FLOAT", ["n", 16, 16, 3]), ("UINT8", ["n", 768])]
)
def test_models_of_other_inputs_are_refused(tmp_path, kind, shape):
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    tensors = [
        onnx.helper.make_tensor_value_info(name, getattr(onnx.TensorProto, kind), shape)
        for name in ("images", "embedding")
    ]
    node = onnx.helper.make_node("Identity", ["images"], ["embedding"])
    graph = onnx.helper.make_graph([node], "same", tensors[:1], tensors[1:])
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="other.onnx must take uint8 images"):
        OnnxModel(tmp_path / "other.onnx")


def test_a_failed_conversion_says_so(saved, monkeypatch):
    tf2onnx = pytest.importorskip("tf2onnx", reason="needs the extra onnx")

    def fail(*args, **kwargs):
        raise RuntimeError("no such op: Einsum")

    monkeypatch.setattr(tf2onnx.convert, "from_function", fail)
    with pytest.raises(ConversionError, match="ONNX converter failed: no such op: Ein"):
        convert_onnx(saved)


@pytest.mark.parametrize(
    ("package", "call"), [("tf2onnx", convert_onnx), ("onnxruntime", OnnxModel)]
)
def test_what_must_be_installed_is_named(saved, monkeypatch, package, call):
    # None makes the import fail, as where it is not installed.
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match="needs tf2onnx and onnxruntime, and Tensor.*"):
        call(saved)
