import sys

import numpy as np
import pytest
from refusals import refused

from ekd_tf.embedders import OnnxEmbedder
from ekd_tf.embedders import in_other_ranges
from ekd_tf.embedders import onnx_graph
from ekd_tf.embedders import open_embedder
from ekd_tf.embedders.onnx_model import PROVIDERS
from ekd_tf.embedders.onnx_model import _external_files

MATRIX = np.cos(np.arange(48 * 5)).reshape(48, 5).astype(np.float32) / 255


@pytest.fixture
def write(tmp_path):
    """Returns a function that writes a model that embeds by a fixed matrix."""
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")

    def make(dtype="FLOAT", shape=("N", 3, 4, 4), outputs=1, weights=None, cast="Cast"):
        kinds, helper = onnx.TensorProto, onnx.helper
        names = [f"out{k}" for k in range(outputs)]
        to_float = {"to": kinds.FLOAT} if cast == "Cast" else {}
        nodes = [
            helper.make_node(cast, ["data"], ["x"], **to_float),
            helper.make_node("Flatten", ["x"], ["flat"]),
            *(helper.make_node("MatMul", ["flat", "matrix"], [n]) for n in names),
        ]
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            nodes,
            "g",
            [value("data", getattr(kinds, dtype), shape)],
            [value(name, kinds.FLOAT, (shape[0], 5)) for name in names],
            [onnx.numpy_helper.from_array(MATRIX, "matrix")],
        )
        opset = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=8)
        path = tmp_path / "m.onnx"
        beside = {"location": weights, "size_threshold": 0} if weights else {}
        onnx.save_model(model, path, save_as_external_data=bool(weights), **beside)
        return path

    return make


def draw(rng, count=3):
    """Returns images and what models of `write` give for their pixels."""
    images = rng.integers(0, 256, (count, 4, 4, 3), np.uint8)
    return images, images.transpose(0, 3, 1, 2).reshape(count, 48) @ MATRIX


def test_embeds_channels_first(rng, write):
    images, expected = draw(rng)
    for dtype, batch in (("FLOAT", "N"), ("UINT8", 1), ("FLOAT16", 2)):
        model = OnnxEmbedder(write(dtype, (batch, 3, 4, 4)))
        found = model(images)
        assert (model.input_size, model.embedding_dim) == (4, 5)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_embeds_channels_last_scales_and_takes_blue_first(rng, write):
    model = OnnxEmbedder(write(shape=("N", 4, 4, 3)), -1, 1, "bgr")
    images = rng.integers(0, 256, (2, 4, 4, 3), np.uint8)
    expected = (images[..., ::-1] / 127.5 - 1).reshape(2, 48) @ MATRIX
    np.testing.assert_allclose(model(images), expected, rtol=1e-4, atol=1e-5)


def test_weights_in_a_file_of_their_own_count(rng, write, tmp_path, monkeypatch):
    path = write(weights="weights.bin")
    # As from another folder than the model's.
    monkeypatch.chdir("/")
    model = OnnxEmbedder(path)
    images, expected = draw(rng)
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
    assert _external_files(model) == {"a", "b", "below/c", "d", "e"}


def test_says_what_is_wrong(write, tmp_path):
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no model")
    for path, arguments, words in (
        (lambda: write(outputs=2), (), "one of that shape named 'embedding'"),
        (lambda: write("INT64"), (), "one input of float, float16 or uint8"),
        (lambda: tmp_path / "none.onnx", (), "none.onnx cannot be loaded: "),
        (lambda: bad, (), "bad.onnx cannot be loaded: "),
        (lambda: bad, (0, 255, "grb"), "color"),
        (lambda: bad, (1, -1), "`high` must be in"),
    ):
        refused(words, OnnxEmbedder, path(), *arguments)


def test_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refused(r"pip install '.\[onnx\]'", OnnxEmbedder, "m.onnx")


def messages(caplog):
    return [record.getMessage() for record in caplog.records]


def test_a_known_graph_runs_as_tensorflow_operations(rng, write, caplog):
    caplog.set_level("INFO", logger="absl")
    model = OnnxEmbedder(write(cast="Identity"), -1, 1, "bgr")
    graph = model.traced()
    images = rng.integers(0, 256, (3, 4, 4, 3), np.uint8)
    np.testing.assert_allclose(graph(images), model(images), rtol=1e-4, atol=1e-5)
    for name in ("name", "input_size", "embedding_dim", "fingerprint"):
        assert getattr(graph, name) == getattr(model, name)
    assert graph.traceable and graph.traced() is graph and not model.traceable
    assert messages(caplog) == [
        f"{model.name}: as TensorFlow operations, within the step."
    ]


def test_another_graph_stays_with_onnxruntime(write, caplog, monkeypatch):
    caplog.set_level("INFO", logger="absl")
    assert OnnxEmbedder(write()).traced() is None
    assert OnnxEmbedder(write("UINT8")).traced() is None
    # What if an operation were repeated wrongly?
    monkeypatch.setitem(onnx_graph._OPERATIONS, "Identity", lambda *_: lambda x: x + 1)
    assert OnnxEmbedder(write(cast="Identity")).traced() is None
    for words, message in zip(
        ("an operation 'Cast'", "not float32", "differ from it by"), messages(caplog)
    ):
        assert words in message and "by onnxruntime (CPUExecutionProvider)" in message


def test_the_fastest_provider_runs_it(write, caplog, monkeypatch):
    import onnxruntime

    path, asked = write(), []

    class Session(onnxruntime.InferenceSession):
        def __init__(self, path, options, providers):
            asked.append(providers)
            super().__init__(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    cpu, cuda, trt = (PROVIDERS[word] for word in ("cpu", "cuda", "tensorrt"))
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: [trt, cuda, "Odd", cpu]
    )
    model = OnnxEmbedder(path)
    assert asked == [[cuda, cpu]] and model.runtime == f"onnxruntime ({cpu})"
    assert messages(caplog) == [f"{path}: {cuda} did not start, {cpu} runs it."]
    OnnxEmbedder(path, provider="cpu")
    open_embedder(f"{path}@-1..1@tensorrt")
    assert asked[1:] == [[cpu], [trt, cpu]]
    words = "m.onnx@coreml: .*does not offer CoreML.*cud"
    refused(words, open_embedder, f"{path}@coreml")
    assert in_other_ranges(f"{path}@bgr@cpu") == [
        f"{path}@-1..1@bgr@cpu",
        f"{path}@0..1@bgr@cpu",
    ]


def test_a_chosen_provider_keeps_the_model_outside_the_step(write, caplog):
    caplog.set_level("INFO", logger="absl")
    model = open_embedder(f"{write(cast='Identity')}@cpu")
    assert model.traced() is None
    (message,) = messages(caplog)
    assert message.endswith("by onnxruntime (CPUExecutionProvider), outside the step.")
    refused("choose what runs an .onnx file", open_embedder, "model.keras@cpu")
    refused("none.onnx does not exist", open_embedder, "none.onnx@cuda")
