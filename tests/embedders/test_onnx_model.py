import functools
import sys

import numpy as np
import pytest
from matrix_models import draw
from matrix_models import embed
from matrix_models import write_onnx
from refusals import refused

from ekd_tf.embedders import OnnxEmbedder
from ekd_tf.embedders import in_other_ranges
from ekd_tf.embedders import onnx_graph
from ekd_tf.embedders import open_embedder
from ekd_tf.embedders.onnx_model import PROVIDERS
from ekd_tf.files.model_parts import external_files


@pytest.fixture
def write(tmp_path):
    return functools.partial(write_onnx, tmp_path, "float32")


def test_weights_in_a_file_of_their_own_count(rng, write, tmp_path, monkeypatch):
    path = write(weights="weights.bin")
    # As from another folder than the model's.
    monkeypatch.chdir("/")
    model = OnnxEmbedder(path)
    images = draw(rng)
    expected = embed(images.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(model(images), expected, rtol=1e-4, atol=1e-4)
    weights = tmp_path / "weights.bin"
    weights.write_bytes(bytes(4) + weights.read_bytes()[4:])
    assert OnnxEmbedder(path).fingerprint != model.fingerprint
    weights.unlink()
    refused("m.onnx cannot be loaded: .*weights.bin", OnnxEmbedder, path)


def test_weights_within_inner_graphs_are_found():
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")

    def tensor(name):
        tensor = onnx.TensorProto()
        tensor.external_data.add(key="location", value=name)
        tensor.external_data.add(key="offset", value="0")
        return tensor

    model = onnx.ModelProto()
    model.graph.initializer.append(tensor("a"))
    node = model.graph.node.add()
    node.attribute.add().t.CopyFrom(tensor("b"))
    branch = node.attribute.add().g
    branch.initializer.append(tensor("below/c"))
    model.functions.add().node.add().attribute.add().tensors.append(tensor("d"))
    model.graph.sparse_initializer.add().values.CopyFrom(tensor("e"))
    assert external_files(model) == {"a", "b", "below/c", "d", "e"}


def test_says_what_is_wrong(tmp_path):
    refused("named 'embedding'", OnnxEmbedder, write_onnx(tmp_path, outputs=2))
    refused("take float, float16 or uint8", OnnxEmbedder, write_onnx(tmp_path, "int64"))
    refused("none.onnx cannot be loaded: ", OnnxEmbedder, tmp_path / "none.onnx")
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no model")
    refused("bad.onnx cannot be loaded: ", OnnxEmbedder, bad)
    refused("color", OnnxEmbedder, bad, 0, 255, "grb")
    refused("`high` must be in", OnnxEmbedder, bad, 1, -1)


def test_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refused(r"pip install '.\[onnx\]'", OnnxEmbedder, "m.onnx")


def test_a_known_graph_runs_as_tensorflow_operations(rng, write, notes):
    model = OnnxEmbedder(write(cast="Identity"), -1, 1, "bgr")
    graph = model.traced()
    images = draw(rng)
    np.testing.assert_allclose(graph(images), model(images), rtol=1e-4, atol=1e-5)
    for name in ("name", "input_size", "embedding_dim", "fingerprint"):
        assert getattr(graph, name) == getattr(model, name)
    assert graph.traceable and graph.traced() is graph and not model.traceable
    assert notes() == [f"{model.name}: as TensorFlow operations, within the step."]


def test_another_graph_stays_with_onnxruntime(write, tmp_path, notes, monkeypatch):
    assert OnnxEmbedder(write()).traced() is None
    assert OnnxEmbedder(write_onnx(tmp_path)).traced() is None
    # What if an operation were repeated wrongly?
    monkeypatch.setitem(onnx_graph._OPERATIONS, "Identity", lambda *_: lambda x: x + 1)
    assert OnnxEmbedder(write(cast="Identity")).traced() is None
    # Or not at all?
    refuse = {"Identity": lambda *_: lambda x: x + np.zeros((7, 7), np.float32)}
    monkeypatch.setattr(onnx_graph, "_OPERATIONS", {**onnx_graph._OPERATIONS, **refuse})
    assert OnnxEmbedder(write(cast="Identity")).traced() is None
    reasons = "an operation 'Cast'", "not float32", "differ from it by", "ncompatible s"
    assert len(notes()) == len(reasons)
    for reason, message in zip(reasons, notes()):
        assert reason in message and "by onnxruntime (CPUExecutionProvider)" in message


def test_the_fastest_provider_runs_it(write, notes, monkeypatch):
    import onnxruntime

    path, asked = write(), []

    class Session(onnxruntime.InferenceSession):
        def __init__(self, path, options, providers):
            asked.append(providers)
            super().__init__(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    cpu, cuda, trt = (PROVIDERS[word] for word in ("cpu", "cuda", "tensorrt"))
    offered = [trt, cuda, "Odd", cpu]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
    model = OnnxEmbedder(path)
    assert asked == [[cuda, cpu]] and model.runtime == f"onnxruntime ({cpu})"
    assert notes() == [f"{path}: {cuda} did not start, {cpu} runs it."]
    OnnxEmbedder(path, provider="cpu")
    open_embedder(f"{path}@-1..1@tensorrt")
    assert asked[1:] == [[cpu], [trt, cpu]]
    refused("@coreml: .*does not offer CoreML.*cud", open_embedder, f"{path}@coreml")
    expected = [f"{path}@{limits}@bgr@cpu" for limits in ("-1..1", "0..1")]
    assert in_other_ranges(f"{path}@bgr@cpu") == expected


def test_a_chosen_provider_keeps_the_model_outside_the_step(write, notes, tmp_path):
    model = open_embedder(f"{write(cast='Identity')}@cpu")
    assert model.traced() is None
    (message,) = notes()
    assert message.endswith("by onnxruntime (CPUExecutionProvider), outside the step.")
    refused("choose what runs an .onnx file", open_embedder, f"{tmp_path}@cpu")
    for spec in ("none.onnx@cuda", "none.onnx@-1..1", "none.onnx@bgr"):
        refused("none.onnx does not exist", open_embedder, spec)
    refused("^nowhere does not exist$", open_embedder, "nowhere@-1..1")
