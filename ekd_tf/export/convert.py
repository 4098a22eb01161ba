"""A student as TFLite or ONNX, and the list of a TFLite file's ops."""

from __future__ import annotations

import collections
import os
import re
import tempfile

import keras
import numpy as np
import tensorflow as tf

from ekd_tf.checks import check_choice
from ekd_tf.embedders.tflite_model import make_interpreter
from ekd_tf.export.equalise import equalise
from ekd_tf.export.saved_model import FLOAT_SIGNATURE
from ekd_tf.export.saved_model import SIGNATURE
from ekd_tf.export.saved_model import check_images
from ekd_tf.export.saved_model import check_student
from ekd_tf.export.saved_model import endpoints
from ekd_tf.export.saved_model import float32_copy
from ekd_tf.export.saved_model import half_precision_layers
from ekd_tf.export.saved_model import save

PRECISIONS = ("float32", "float16", "dynamic", "int8")


class ConversionError(ValueError):
    """The converter refused the model; the message names the op where it did."""


def convert_tflite(
    student: keras.Model,
    precision: str = "float32",
    representative: np.ndarray | None = None,
    int8_output: str = "float32",
) -> bytes:
    """Converts a student to TFLite with builtin ops only.

    The result takes one uint8 image `images`, `(1, height, width, 3)`, and returns
    float32 `embedding` `(1, dim)` of Euclidean length 1, under the names of the
    SavedModel's endpoint. That of "int8" returns `raw_embedding` instead, of any
    length: a length of 1 would leave 8 bits too few steps.

    Args:
        student: As described at `check_student`, of any precision.
        precision: "float32"; "float16", weights in half the space; "dynamic", weights
            in int8; these three compute with float32 activations. "int8": all in int8.
        representative: Uint8 images `(n, height, width, 3)`, 100 to 500 of training:
            "int8" takes the ranges of its activations from them.
        int8_output: "float32" or "int8", what "int8" returns.

    Returns:
        The content of the `.tflite` file.
    """
    check_choice("precision", precision, PRECISIONS)
    check_choice("int8_output", int8_output, ("float32", "int8"))
    check_student(student)
    # Equalising changes the copy.
    if precision == "int8" or half_precision_layers(student):
        student = float32_copy(student)
    if precision == "int8":
        images = check_representative(representative)
        images = check_images(images, student.input_shape[1:])
        equalise(student, images)
    with tempfile.TemporaryDirectory() as scratch:
        # Only by way of a SavedModel the endpoint's names are kept.
        _save_frozen(student, scratch, raw=precision == "int8")
        converter = tf.lite.TFLiteConverter.from_saved_model(
            scratch, signature_keys=[SIGNATURE]
        )
        # XNNPACK folds nothing across Flex ops, and few phones carry them.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if precision == "int8":
            converter.representative_dataset = lambda: _calibrating(images)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = tf.uint8
            converter.inference_output_type = tf.as_dtype(int8_output)
        try:
            return converter.convert()
        # The converter's own exception type is not public.
        except Exception as error:
            raise ConversionError(_explain(error)) from error


def convert_onnx(student: keras.Model) -> bytes:
    """Converts a student, as `float32_copy` returns it, to ONNX, operator set 17.

    The `.onnx` file maps `images`, uint8 `(n, height, width, 3)` RGB for any n, to
    `embedding`, float32 `(n, dim)` of Euclidean length 1.
    """
    try:
        import tf2onnx
    except ImportError as error:
        raise ValueError(
            "ONNX needs tf2onnx and onnxruntime, and TensorFlow 2.18 or later: pip "
            f"install tf2onnx onnxruntime. Received: {error}"
        ) from error
    function, spec = endpoints(student)[SIGNATURE]
    embed = tf.function(function, autograph=False, input_signature=[spec])
    try:
        model, _ = tf2onnx.convert.from_function(embed, [spec], opset=17)
    # The converter raises what its libraries do; each means the same here.
    except Exception as error:
        raise ConversionError(f"The ONNX converter failed: {error}") from error
    return model.SerializeToString()


def check_representative(images: np.ndarray | None) -> np.ndarray:
    """Returns the images int8 takes its ranges from; ValueError where there is none."""
    if images is None or not len(images):
        raise ValueError(
            "int8 takes the ranges of activations from real images: give "
            "`representative`, 100 or more training images. Received: none"
        )
    return images


def tflite_ops(path: str | os.PathLike) -> dict[str, int]:
    """Counts the ops of a TFLite file by name, as in its schema ("CONV_2D")."""
    # Not public, but without tensors allocated the one list of the file's own ops:
    # XNNPACK's are not in their place yet.
    operators = make_interpreter(path)._get_ops_details()
    return dict(collections.Counter(operator["op_name"] for operator in operators))


def _save_frozen(student, path, raw):
    """Writes a SavedModel of one endpoint for one image, weights as constants.

    With the batch fixed, no op computes shapes. With constants, the converter need not
    save and load the variables several times: half of its time (MobileFaceNet, float32
    and float16). `raw` is the endpoint of float pixels: quantisation puts its own uint8
    input before them.
    """
    # Not public, but the one function that freezes on both stacks.
    from tensorflow.python.framework import convert_to_constants

    name = "raw_embedding" if raw else "embedding"
    function, spec = endpoints(student)[FLOAT_SIGNATURE if raw else SIGNATURE]
    spec = tf.TensorSpec((1, *spec.shape[1:]), spec.dtype, name="images")
    embed_one = tf.function(
        lambda images: function(images)[name], autograph=False, input_signature=[spec]
    ).get_concrete_function()
    frozen = convert_to_constants.convert_variables_to_constants_v2(embed_one)
    graph = frozen.graph.as_graph_def()
    for node in graph.node:
        # Points to the Python gradient of a custom gradient, which saving would
        # look for and loading would miss with a warning.
        node.attr.pop("_gradient_op_type", None)
    (image,), (result,) = frozen.inputs, frozen.outputs

    def embed(images):
        (embedding,) = tf.graph_util.import_graph_def(
            graph, input_map={image.name: images}, return_elements=[result.name]
        )
        return {name: embedding}

    module = tf.Module()
    module.embed = tf.function(embed, autograph=False, input_signature=[spec])
    save(module, path, {SIGNATURE: module.embed})


def _calibrating(images):
    """Yields single images; the first has a black and a white pixel in its corners.

    Pixels then range from 0 to 255 exactly, so that the quantised input has scale 1
    and zero point 0: it takes the pixels as they are.
    """
    first = images[0].copy()
    first[0, 0], first[-1, -1] = 0, 255
    for image in (first, *images[1:]):
        yield [image[None].astype(np.float32)]


def _explain(error):
    text = str(error)
    kinds = re.findall(r"^\s*(?:TF Select|Custom) ops: (.+)$", text, re.MULTILINE)
    # Of an op that is a builtin but not in int8 the converter says only this.
    kinds += re.findall(r"error: '?tfl\.(\w+)'? op", text)
    if kinds:
        return (
            "The student must use ops that TFLite has builtins for. It also uses: "
            f"{', '.join(kinds)}. Replace the layer that computes them."
        )
    return f"The TFLite converter failed: {text.strip()}"
