"""Tests for `ekd_tf.export.compact`."""

import collections

import numpy as np
import pytest

from ekd_tf.export import tflite as conversion
from ekd_tf.export.compact import BUFFER_ALIGNMENT
from ekd_tf.export.compact import compact
from ekd_tf.export.tflite import TFLiteModel


@pytest.fixture(scope="module")
def as_converted(saved):
    """An int8 file as the converter gives it."""
    images = np.random.default_rng(5).integers(0, 256, (8, 16, 16, 3), np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversion, "compact", lambda content: content)
        return conversion.convert_tflite(saved, "int8", images)


def tensors(content):
    """Returns the tensors of a file's graph and its model, as flatbuffer views."""
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    graph = model.Subgraphs(0)
    return [graph.Tensors(i) for i in range(graph.TensorsLength())], model


def address(array):
    return array.__array_interface__["data"][0]


def test_computes_the_same(as_converted, images):
    before = TFLiteModel(as_converted)(images)
    np.testing.assert_array_equal(TFLiteModel(compact(as_converted))(images), before)


def test_equal_zero_points_are_written_once(as_converted):
    content = compact(as_converted)
    assert len(content) < len(as_converted)
    copies = collections.defaultdict(set)
    for tensor in tensors(content)[0]:
        quantization = tensor.Quantization()
        if quantization is not None and quantization.ZeroPointLength() > 1:
            zero_points = quantization.ZeroPointAsNumpy()
            copies[len(zero_points)].add(address(zero_points))
            assert not zero_points.any()
    # Kernels of 8 channels and their biases.
    assert 8 in copies
    assert all(len(addresses) == 1 for addresses in copies.values())


def test_buffers_are_aligned(as_converted):
    content = compact(as_converted)
    start = address(np.frombuffer(content, np.uint8))
    _, model = tensors(content)
    buffers = [model.Buffers(i) for i in range(model.BuffersLength())]
    filled = [b.DataAsNumpy() for b in buffers if b.DataLength()]
    assert len(filled) > 3
    for data in filled:
        assert (address(data) - start) % BUFFER_ALIGNMENT == 0


def test_only_inputs_and_outputs_keep_their_names(as_converted):
    content = compact(as_converted)
    interpreter = conversion._interpreter(content, num_threads=1)
    details = interpreter.get_tensor_details()
    ends = interpreter.get_input_details() + interpreter.get_output_details()
    named = {detail["index"] for detail in details if detail["name"]}
    assert named == {detail["index"] for detail in ends}
    assert interpreter.get_signature_list() != {}
