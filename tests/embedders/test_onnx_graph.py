"""ONNX operations repeated in TensorFlow give what onnxruntime gives."""

import numpy as np
import pytest
import tensorflow as tf
from refusals import refused

from ekd_tf.embedders.onnx_graph import UnknownGraph
from ekd_tf.embedders.onnx_graph import graph_function

SIZE = 9


@pytest.fixture(autouse=True)
def of_the_extra():
    for name in ("onnx", "onnxruntime"):
        pytest.importorskip(name, reason="needs the extra onnx")


class Graph:
    """Collects nodes one behind the other, from `images (n, 3, 9, 9)`."""

    def __init__(self, rng):
        import onnx

        self.rng, self._helper, self._numpy = rng, onnx.helper, onnx.numpy_helper
        self.nodes, self.initializers, self.last = [], [], "images"

    def weight(self, *shape, low=None):
        array = self.rng.normal(size=shape).astype(np.float32)
        return array if low is None else np.abs(array) + np.float32(low)

    def add(self, kind, *arrays, first=True, others=(), **attributes):
        """Adds a node of the last result, or with it behind its first array."""
        names = []
        for array in map(np.asarray, arrays):
            names.append(f"w{len(self.initializers)}")
            self.initializers.append(self._numpy.from_array(array, names[-1]))
        inputs = [self.last, *others, *names] if first else [*names, self.last]
        self.last = f"{kind}{len(self.nodes)}"
        node = self._helper.make_node(kind, inputs, [self.last], **attributes)
        self.nodes.append(node)
        return self

    def model(self):
        make = self._helper.make_tensor_value_info
        inputs = [make("images", 1, ["n", 3, SIZE, SIZE])]
        outputs = [make(self.last, 1, None)]
        parts = self.nodes, "graph", inputs, outputs, self.initializers
        graph = self._helper.make_graph(*parts)
        opsets = [self._helper.make_opsetid("", 13)]
        return self._helper.make_model(graph, opset_imports=opsets, ir_version=8)


def check(graph, rng):
    import onnxruntime

    model = graph.model()
    images = rng.normal(size=(5, 3, SIZE, SIZE)).astype(np.float32)
    content, providers = model.SerializeToString(), ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(content, providers=providers)
    (expected,) = session.run(None, {"images": images})
    function, weights = graph_function(model)
    spec = tf.TensorSpec((None, SIZE, SIZE, 3))
    result = tf.function(function, input_signature=[spec])(images.transpose(0, 2, 3, 1))
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)
    assert not any(variable.trainable for variable in weights)


def test_convolutions_of_every_form(rng):
    g = Graph(rng)
    g.add("Conv", g.weight(8, 3, 3, 3), pads=[1, 1, 1, 1])
    g.add("Conv", g.weight(8, 1, 3, 3), g.weight(8), group=8, pads=[0, 1, 2, 1])
    g.add("Conv", g.weight(16, 1, 3, 3), group=8, strides=[2, 2], pads=[1, 1, 1, 1])
    g.add("Conv", g.weight(6, 8, 1, 1), g.weight(6), group=2)
    g.add("Conv", g.weight(4, 6, 2, 2), dilations=[2, 1], strides=[1, 1])
    # A bias that is left out by an empty name.
    g.nodes[-1].input.append("")
    check(g, rng)


def test_what_stands_between_convolutions(rng):
    g = Graph(rng)
    g.add("Sub", np.float32([0.5])).add("Mul", g.weight(3, 1, 1))
    g.add("Div", np.float32(2.0), first=False)
    g.add("BatchNormalization", *(g.weight(3) for _ in range(3)), g.weight(3, low=0.1))
    before = g.last
    g.add("PRelu", g.weight(3, 1, 1)).add("PRelu", np.float32([0.1]))
    g.add("Add", others=[before]).add("Relu").add("Add", g.weight(1, 3, 1, 1))
    # ONNX broadcasts them over height and width, the last of its dimensions.
    g.add("Add", g.weight(SIZE, SIZE)).add("Mul", g.weight(SIZE))
    g.add("Sub", g.weight(SIZE, 1), first=False)
    g.add("Dropout").add("Identity")
    check(g, rng)


@pytest.mark.parametrize("way", ["flatten", "transposed", "pooled"])
def test_features_become_rows_in_the_order_of_onnx(rng, way):
    g = Graph(rng)
    g.add("Conv", g.weight(4, 3, 2, 2))
    if way == "flatten":
        g.add("Reshape", np.int64([0, -1])).add("Flatten")
    elif way == "transposed":
        g.add("Transpose", perm=[0, 2, 3, 1]).add("Reshape", np.int64([-1, 256]))
    else:
        g.add("GlobalAveragePool").add("Flatten", axis=1)
    rows = 4 if way == "pooled" else 256
    g.add("Gemm", g.weight(6, rows), g.weight(6), transB=1, alpha=0.5, beta=2.0)
    g.add("MatMul", g.weight(6, 5))
    g.add("BatchNormalization", *(g.weight(5) for _ in range(3)), g.weight(5, low=0.1))
    check(g, rng)


def test_says_what_it_does_not_know(rng):
    w = np.ones((3, 3, 1, 1), np.float32)
    slopes = np.ones((SIZE, SIZE), np.float32)
    for words, kind, arrays, attributes in (
        ("an operation 'Sigmoid'", "Sigmoid", (), {}),
        ("auto_pad=b'SAME_UPPER'", "Conv", (w,), {"auto_pad": "SAME_UPPER"}),
        ("fixes the batch", "Reshape", (np.int64([5, 3 * SIZE * SIZE]),), {}),
        ("moves the batch", "Transpose", (), {"perm": [3, 1, 2, 0]}),
        ("axis=2", "Flatten", (), {"axis": 2}),
        ("slopes of shape", "PRelu", (slopes,), {}),
        ("weights that are computed", "Conv", (), {"others": ["images"]}),
    ):
        graph = Graph(rng).add(kind, *arrays, **attributes)
        refused(words, graph_function, graph.model(), error=UnknownGraph)
    graph = Graph(rng).add("Conv", w)
    graph.nodes[-1].input.append("images")
    refused("that are computed", graph_function, graph.model(), error=UnknownGraph)
