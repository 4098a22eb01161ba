"""ONNX graphs of face networks as TensorFlow operations: on any device, in any step.

A network exported from torch or MXNet is a few kinds of operations with folded
normalisation. These are repeated here one by one. Images lie channels last, as
TensorFlow wants them on CPUs; where ONNX's order matters they are turned and back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf


class UnknownGraph(ValueError):
    """The graph has something that is not repeated here. The message says what."""


def graph_function(model: Any) -> tuple[Callable, list[tf.Variable]]:
    """Returns an `onnx.ModelProto`, weights loaded, as TensorFlow operations.

    They are a function of float32 images `(n, height, width, 3)`; the variables hold
    the weights.
    """
    from onnx import helper
    from onnx import numpy_helper

    graph = model.graph
    arrays = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in arrays]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise UnknownGraph(f"{len(inputs)} inputs and {len(graph.output)} outputs")
    steps, weights = [], []
    for node in graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Constant":
            if set(attributes) != {"value"}:
                raise UnknownGraph("a Constant that is no tensor")
            arrays[node.output[0]] = numpy_helper.to_array(attributes["value"])
            continue
        if node.op_type not in _OPERATIONS or node.domain not in ("", "ai.onnx"):
            raise UnknownGraph(f"an operation {node.op_type!r}")
        names = list(node.input)
        # An input that is left out has no name.
        while names and not names[-1]:
            names.pop()
        constants = [arrays.get(name) for name in names]
        step = _OPERATIONS[node.op_type](attributes, constants, weights)
        moving = [n for n, c in zip(names, constants) if c is None and n]
        if not moving:
            raise UnknownGraph(f"a {node.op_type} of constants")
        steps.append((step, moving, node.output[0]))

    def run(images):
        values = {inputs[0]: images}
        for step, names, output in steps:
            values[output] = step(*(values[name] for name in names))
        return _to_onnx(values[graph.output[0].name])

    return run, weights


def _to_onnx(x):
    return tf.transpose(x, (0, 3, 1, 2)) if x.shape.rank == 4 else x


def _from_onnx(x):
    return tf.transpose(x, (0, 2, 3, 1)) if x.shape.rank == 4 else x


def _held(array, weights):
    """Returns a variable of an array, entered among the weights."""
    weights.append(tf.Variable(np.asarray(array, np.float32), trainable=False))
    return weights[-1]


def _need(constants, *places):
    for place in places:
        if place >= len(constants) or constants[place] is None:
            raise UnknownGraph("weights that are computed")


def _plain(attributes, **allowed):
    """Raises `UnknownGraph` for an attribute of another value than the one allowed."""
    for name, value in allowed.items():
        if attributes.get(name, value) != value:
            raise UnknownGraph(f"{name}={attributes[name]}")


def _conv(attributes, constants, weights):
    _need(constants, 1)
    _plain(attributes, auto_pad=b"NOTSET")
    kernel = constants[1]
    if kernel.ndim != 4:
        raise UnknownGraph(f"a convolution of rank {kernel.ndim}")
    outputs, inputs, *_ = kernel.shape
    groups = attributes.get("group", 1)
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    arguments = {
        "strides": [1, *attributes.get("strides", (1, 1)), 1],
        "dilations": list(attributes.get("dilations", (1, 1))),
        "padding": "VALID",
    }
    bias = None
    if len(constants) > 2:
        _need(constants, 2)
        bias = _held(constants[2], weights)
    depthwise = groups > 1 and inputs == 1
    if depthwise:
        # Outputs of one channel are neighbours: (height, width, channels, each).
        kernel = kernel.reshape(groups, outputs // groups, *kernel.shape[2:])
        held = _held(kernel.transpose(2, 3, 0, 1), weights)
    else:
        held = _held(kernel.transpose(2, 3, 1, 0), weights)

    def convolve(x):
        if top or left or bottom or right:
            x = tf.pad(x, [[0, 0], [top, bottom], [left, right], [0, 0]])
        if depthwise:
            x = tf.nn.depthwise_conv2d(x, held, **arguments)
        else:
            parts = zip(tf.split(x, groups, -1), tf.split(held, groups, -1))
            x = tf.concat([tf.nn.conv2d(p, k, **arguments) for p, k in parts], -1)
        return x if bias is None else tf.nn.bias_add(x, bias)

    return convolve


def _batch_norm(attributes, constants, weights):
    _need(constants, 1, 2, 3, 4)
    _plain(attributes, training_mode=0, spatial=1)
    scale, offset, mean, variance = (np.float64(x) for x in constants[1:5])
    scale = scale / np.sqrt(variance + attributes.get("epsilon", 1e-5))
    factor, summand = _held(scale, weights), _held(offset - mean * scale, weights)
    # Channels are last, or the only dimension but the batch.
    return lambda x: x * factor + summand


def _prelu(attributes, constants, weights):
    _need(constants, 1)
    slope = constants[1]
    if slope.size > 1 and slope.shape[-2:] != (1, 1):
        raise UnknownGraph(f"slopes of shape {slope.shape}")
    slope = _held(slope.reshape(-1), weights)
    return lambda x: tf.nn.relu(x) - slope * tf.nn.relu(-x)


def _binary(function):
    def make(attributes, constants, weights):
        held = [c if c is None else _held(_for_images(c), weights) for c in constants]
        if held[0] is not None:
            return lambda x: function(_beside(x, held[0]), x)
        if held[1] is not None:
            return lambda x: function(x, _beside(x, held[1]))
        return function

    return make


def _for_images(array):
    """Returns an array that is added to images, or to rows, channels last."""
    if array.ndim not in (3, 4):
        return array
    return array.reshape((-1, *array.shape[-3:])).transpose(0, 2, 3, 1)


def _beside(x, held):
    """Returns a constant as it lies beside x, images or rows."""
    # Of one or two dimensions it is of the width, or of height and width, of images.
    return held[..., None] if x.shape.rank == 4 and held.shape.rank in (1, 2) else held


def _gemm(attributes, constants, weights):
    """Makes a Gemm, or a MatMul, which is one without attributes."""
    _need(constants, 1)
    _plain(attributes, transA=0)
    if constants[1].ndim != 2:
        raise UnknownGraph("a product of more than two dimensions")
    matrix = constants[1].T if attributes.get("transB", 0) else constants[1]
    matrix = _held(matrix * np.float32(attributes.get("alpha", 1.0)), weights)
    if len(constants) < 3:
        return lambda x: tf.matmul(x, matrix)
    _need(constants, 2)
    offset = _held(constants[2] * np.float32(attributes.get("beta", 1.0)), weights)
    return lambda x: tf.matmul(x, matrix) + offset


def _flatten(attributes, constants, weights):
    _plain(attributes, axis=1)
    return _reshape({}, [None, (-1, -1)], weights)


def _reshape(attributes, constants, weights):
    _need(constants, 1)
    _plain(attributes, allowzero=0)
    shape = [int(size) for size in constants[1]]
    if shape[0] not in (0, -1) or 0 in shape[1:]:
        raise UnknownGraph(f"a Reshape to {shape}, which fixes the batch")

    def reshape(x):
        x = _to_onnx(x)
        inner = list(shape[1:])
        if -1 in inner:
            known = -int(np.prod(inner))
            inner[inner.index(-1)] = int(np.prod(x.shape[1:])) // known
        return _from_onnx(tf.reshape(x, [-1, *inner]))

    return reshape


def _transpose(attributes, constants, weights):
    order = attributes.get("perm")
    if not order or order[0] != 0:
        raise UnknownGraph("a Transpose that moves the batch")
    return lambda x: _from_onnx(tf.transpose(_to_onnx(x), order))


_OPERATIONS = {
    "Conv": _conv,
    "BatchNormalization": _batch_norm,
    "PRelu": _prelu,
    "Relu": lambda *_: tf.nn.relu,
    "Add": _binary(tf.add),
    "Mul": _binary(tf.multiply),
    "Sub": _binary(tf.subtract),
    "Div": _binary(tf.divide),
    "Gemm": _gemm,
    "MatMul": _gemm,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "GlobalAveragePool": lambda *_: lambda x: tf.reduce_mean(x, [1, 2], keepdims=True),
    "Identity": lambda *_: tf.identity,
    "Dropout": lambda *_: tf.identity,
}
