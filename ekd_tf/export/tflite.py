"""TFLite conversion of a student, its op list, and a runner with latency."""

from __future__ import annotations

import collections
import os
import pathlib
import re
import tempfile
import time
import warnings

import keras
import numpy as np
import tensorflow as tf

from ekd_tf.checks import check_choice
from ekd_tf.checks import check_range
from ekd_tf.export.precision import as_float32
from ekd_tf.export.saved_model import SIGNATURE
from ekd_tf.export.saved_model import SavedModelEmbedder
from ekd_tf.export.saved_model import check_images
from ekd_tf.export.saved_model import check_student
from ekd_tf.export.saved_model import write_saved_model
from ekd_tf.export.staging import staged

PRECISIONS = ("float32", "float16")


class ConversionError(ValueError):
    """The converter refused the model; the message names the op where it did."""


def convert_tflite(source, precision: str = "float32") -> bytes:
    """Converts a student to TFLite with builtin ops only.

    The result takes one uint8 image `(1, height, width, 3)` and returns its float32
    embedding `(1, dim)` of Euclidean length 1, under the names of the SavedModel's
    endpoint.

    Args:
        source: A Keras model as described at `check_student`, of any precision, or
            the directory of a SavedModel written by `export_saved_model`.
        precision: "float32", or "float16" to store the weights in half the space;
            both compute in float32.

    Returns:
        The content of the `.tflite` file.

    Raises:
        ConversionError: The model needs an op that TFLite has no builtin for.
        ValueError: The source or the precision is none of the above.
    """
    check_choice("precision", precision, PRECISIONS)
    with tempfile.TemporaryDirectory() as scratch:
        if isinstance(source, keras.Model):
            model, source = source, os.path.join(scratch, "any_batch")
            write_saved_model(as_float32(check_student(model)), source)
        frozen = os.path.join(scratch, "frozen")
        _freeze_one(source, frozen)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            frozen, signature_keys=[SIGNATURE]
        )
        # XNNPACK folds nothing across Flex ops, and few phones carry them.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if precision == "float16":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]
        try:
            return converter.convert()
        # The converter's own exception type is not public.
        except Exception as error:
            raise ConversionError(_explain(error)) from error


def write_tflite(source, path, precision: str = "float32") -> pathlib.Path:
    """Converts `source` and writes it to `path`, complete or not at all.

    Args:
        source: As for `convert_tflite`.
        path: The `.tflite` file; replaced if it exists.
        precision: As for `convert_tflite`.

    Returns:
        `path`.

    Raises:
        OSError: The file cannot be written.
        ValueError: As for `convert_tflite`; a file that was there stays as it was.
    """
    path = pathlib.Path(path)
    with staged(path) as target:
        target.write_bytes(convert_tflite(source, precision))
    return path


def tflite_ops(source) -> dict[str, int]:
    """Counts the ops of a TFLite model.

    Args:
        source: The file's content as bytes, or its path.

    Returns:
        Dict op name -> count over all subgraphs, as in the schema ("CONV_2D"); an op
        that is no builtin goes by its own name ("FlexMatrixInverse").
    """
    # The only reader of the schema that both supported TensorFlows ship.
    from tensorflow.lite.python import schema_py_generated as schema

    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if k.isupper()}
    model = schema.ModelT.InitFromPackedBuf(_content(source), 0)
    codes = [
        # Codes from 127 up are in the one field, older files have only the other.
        names[max(code.builtinCode, code.deprecatedBuiltinCode)]
        if code.customCode is None
        else code.customCode.decode()
        for code in model.operatorCodes
    ]
    return dict(
        collections.Counter(
            codes[op.opcodeIndex] for graph in model.subgraphs for op in graph.operators
        )
    )


class TFLiteModel:
    """Embeds images with a TFLite file, one at a time.

    Runs on `ai_edge_litert` where it is installed, otherwise on `tf.lite`.

    Args:
        source: Path of a `.tflite` file, or its content as bytes.
        num_threads: Int >= 1, CPU threads of the interpreter.

    Raises:
        ValueError: The model does not map one uint8 image to one embedding.
    """

    def __init__(self, source, num_threads: int = 1):
        check_range("num_threads", num_threads, low=1)
        self._interpreter = _interpreter(_content(source), num_threads)
        self._interpreter.allocate_tensors()
        inputs = self._interpreter.get_input_details()
        outputs = self._interpreter.get_output_details()
        shape, dtype = tuple(inputs[0]["shape"]), inputs[0]["dtype"]
        if len(shape) != 4 or shape[0] != 1 or dtype != np.uint8:
            raise ValueError(
                "`source` must take one uint8 image (1, height, width, 3). "
                f"Received: {dtype.__name__} {tuple(map(int, shape))}"
            )
        self.image_shape = tuple(map(int, shape[1:]))
        self.embedding_dim = int(outputs[0]["shape"][-1])
        self._input, self._output = inputs[0]["index"], outputs[0]["index"]

    def __call__(self, images) -> np.ndarray:
        """Returns the float32 embeddings `(n, dim)` of uint8 images."""
        images = check_images(images, self.image_shape)
        embeddings = np.empty((len(images), self.embedding_dim), np.float32)
        for row, image in zip(embeddings, images):
            row[:] = self._embed(image)
        return embeddings

    def latency(self, images, repeats: int = 50) -> tuple[float, float]:
        """Times single images after a warm-up.

        Args:
            images: Uint8 `(n, height, width, 3)`, n >= 1; taken in turn.
            repeats: Int >= 1, number of timed images.

        Returns:
            Median and 95th percentile in milliseconds.
        """
        images = check_images(images, self.image_shape)
        check_range("repeats", repeats, low=1)
        check_range("len(images)", len(images), low=1)
        # The first calls pack weights and fill caches.
        for image in images[:5]:
            self._embed(image)
        times = []
        for step in range(repeats):
            start = time.perf_counter()
            self._embed(images[step % len(images)])
            times.append(1e3 * (time.perf_counter() - start))
        return float(np.median(times)), float(np.percentile(times, 95))

    def _embed(self, image):
        self._interpreter.set_tensor(self._input, image[None])
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output)[0]


def _freeze_one(source, path):
    """Rewrites a SavedModel for one image, with its weights as constants.

    With the batch fixed, no op computes shapes. With constants, the converter need
    not save and load the variables several times, which takes most of its time; and
    it comes by way of a SavedModel, since only that keeps the endpoint's names.
    """
    # Not public, but the one thing that freezes a function on both stacks.
    from tensorflow.python.framework import convert_to_constants

    embedder = SavedModelEmbedder(source)
    specs = [tf.TensorSpec((1, *embedder.image_shape), tf.uint8, name="images")]
    embed_one = tf.function(
        lambda images: embedder.signature(images=images)["embedding"],
        input_signature=specs,
    ).get_concrete_function()
    frozen = convert_to_constants.convert_variables_to_constants_v2(embed_one)
    graph = frozen.graph.as_graph_def()
    for node in graph.node:
        # Points to the Python gradient of a custom gradient, which saving would
        # look for and loading would miss with a warning.
        node.attr.pop("_gradient_op_type", None)

    def embed(images):
        (embedding,) = tf.graph_util.import_graph_def(
            graph,
            input_map={frozen.inputs[0].name: images},
            return_elements=[frozen.outputs[0].name],
        )
        return {"embedding": embedding}

    module = tf.Module()
    module.embed = tf.function(embed, input_signature=specs)
    tf.saved_model.save(module, path, signatures={SIGNATURE: module.embed})


def _explain(error):
    text = str(error)
    kinds = re.findall(r"^\s*(?:TF Select|Custom) ops: (.+)$", text, re.MULTILINE)
    if kinds:
        return (
            "The student must use ops that TFLite has builtins for. It also uses: "
            f"{', '.join(kinds)}. Replace the layer that computes them."
        )
    return f"The TFLite converter failed: {text.strip()}"


def _content(source) -> bytes:
    if isinstance(source, (bytes, bytearray)):
        return bytes(source)
    return pathlib.Path(source).read_bytes()


def _interpreter(content, num_threads):
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        Interpreter = tf.lite.Interpreter
    with warnings.catch_warnings():
        # tf.lite announces its own deletion at every construction. It is meant
        # here: TensorFlow is a requirement of this package, the successor is not.
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter")
        return Interpreter(model_content=content, num_threads=num_threads)
