"""TFLite conversion of a student, its op list, and a runner with latency."""

from __future__ import annotations

import collections
import pathlib
import re
import tempfile
import warnings

import keras
import numpy as np
import tensorflow as tf

from ekd_tf.checks import check_choice
from ekd_tf.checks import check_range
from ekd_tf.export.compact import compact
from ekd_tf.export.equalise import equalise
from ekd_tf.export.frozen import EMBEDDING
from ekd_tf.export.frozen import RAW
from ekd_tf.export.frozen import FrozenEndpoint
from ekd_tf.export.frozen import freeze
from ekd_tf.export.measure import time_images
from ekd_tf.export.precision import as_float32
from ekd_tf.export.saved_model import SIGNATURE
from ekd_tf.export.saved_model import check_images
from ekd_tf.export.saved_model import check_student
from ekd_tf.export.staging import staged

PRECISIONS = ("float32", "float16", "dynamic", "int8")
INT8_OUTPUTS = ("float32", "int8")


class ConversionError(ValueError):
    """The converter refused the model; the message names the op where it did."""


def convert_tflite(
    source,
    precision: str = "float32",
    representative=None,
    int8_output: str = "float32",
) -> bytes:
    """Converts a student to TFLite with builtin ops only.

    The result takes one uint8 image `images`, `(1, height, width, 3)`, and returns
    float32 `embedding` `(1, dim)` of Euclidean length 1, under the names of the
    SavedModel's endpoint. That of "int8" returns `raw_embedding` instead, of any
    length: a length of 1 would leave 8 bits too few steps, so it is for the caller to
    divide by it.

    Args:
        source: A Keras model as described at `check_student`, of any precision; the
            directory of a SavedModel written by `export_saved_model`; or what
            `freeze` makes of either, to convert to several precisions.
        precision: "float32"; "float16", weights in half the space; "dynamic", weights
            in int8; these three compute with float32 activations. "int8": weights and
            activations in int8.
        representative: Uint8 images `(n, height, width, 3)`, n >= 1, decoded and
            resized as in training; "int8" takes the ranges of its activations from
            them. 100 to 500 training images.
        int8_output: "float32" or "int8", what "int8" returns. The tensor's
            quantisation holds scale and zero point of the latter.

    Returns:
        The content of the `.tflite` file.

    Raises:
        ConversionError: The model needs an op that TFLite has no builtin for, or has
            not in int8.
        ValueError: The source or an argument is none of the above.
    """
    check_choice("precision", precision, PRECISIONS)
    check_choice("int8_output", int8_output, INT8_OUTPUTS)
    if precision == "int8":
        check_representative(representative)
    if isinstance(source, keras.Model):
        source = as_float32(check_student(source))
        if precision == "int8":
            equalise(source, check_images(representative, source.input_shape[1:]))
    name = RAW if precision == "int8" else EMBEDDING
    if not isinstance(source, FrozenEndpoint):
        source = freeze(source, name)
    if source.name != name:
        raise ValueError(
            f"{precision!r} is converted from the endpoint that returns {name!r}. "
            f"Received: one that returns {source.name!r}"
        )
    with tempfile.TemporaryDirectory() as scratch:
        # Only by way of a SavedModel the endpoint's names are kept.
        source.save(scratch)
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
            images = check_images(representative, source.spec.shape[1:])
            converter.representative_dataset = lambda: _calibrating(images)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = tf.uint8
            converter.inference_output_type = tf.as_dtype(int8_output)
        try:
            return compact(converter.convert())
        # The converter's own exception type is not public.
        except Exception as error:
            raise ConversionError(_explain(error)) from error


def check_representative(images) -> None:
    """Raises ValueError unless there are images for int8 to take its ranges from."""
    if images is None or not len(images):
        raise ValueError(
            "int8 takes the ranges of activations from real images: give "
            "`representative`, 100 or more training images. Received: none"
        )


def write_tflite(
    source, path, precision: str = "float32", **int8_arguments
) -> pathlib.Path:
    """Converts `source` and writes it to `path`, complete or not at all.

    Args:
        source: As for `convert_tflite`.
        path: The `.tflite` file; replaced if it exists.
        precision: As for `convert_tflite`.
        **int8_arguments: `representative` and `int8_output`, likewise.

    Returns:
        `path`.

    Raises:
        OSError: The file cannot be written.
        ValueError: As for `convert_tflite`; a file that was there stays as it was.
    """
    path = pathlib.Path(path)
    with staged(path) as target:
        target.write_bytes(convert_tflite(source, precision, **int8_arguments))
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
        # (0, 0) where the output is float.
        self._scale, self._zero_point = outputs[0]["quantization"]

    @property
    def partitions(self) -> int:
        """Pieces of the graph that XNNPACK runs; 1 where it runs all of it.

        Between two pieces the reference kernels run, which are slow, and tensors are
        copied. 0: the interpreter runs without XNNPACK.
        """
        # Not public, but the one place that both runtimes tell it.
        ops = self._interpreter._get_ops_details()
        return sum(op["op_name"] == "DELEGATE" for op in ops)

    def __call__(self, images) -> np.ndarray:
        """Returns the float32 embeddings `(n, dim)` of uint8 images.

        Those of an int8 file are raw, and dequantised where it returns int8.
        """
        images = check_images(images, self.image_shape)
        embeddings = np.empty((len(images), self.embedding_dim), np.float32)
        for row, image in zip(embeddings, images):
            row[:] = self._embed(image)
        if self._scale:
            return (embeddings - self._zero_point) * np.float32(self._scale)
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
        return time_images(self._embed, images, repeats)

    def _embed(self, image):
        self._interpreter.set_tensor(self._input, image[None])
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output)[0]


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
