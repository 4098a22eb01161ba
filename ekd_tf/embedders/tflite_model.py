"""Trained models from `.tflite` files, by LiteRT or TensorFlow's own interpreter."""

from __future__ import annotations

import os
import pathlib
import warnings
from typing import Any

import numpy as np

from ekd_tf.embedders.frozen import FrozenEmbedder
from ekd_tf.embedders.frozen import Pixels
from ekd_tf.embedders.frozen import check_outputs
from ekd_tf.embedders.frozen import content_hash
from ekd_tf.embedders.frozen import in_batches
from ekd_tf.embedders.frozen import loading_error
from ekd_tf.embedders.frozen import square_side


class TFLiteEmbedder(FrozenEmbedder):
    """Embeds by a TFLite model.

    Quantised inputs and outputs are converted by their scale and zero point, except a
    uint8 input, which takes pixels as they are.

    Args:
        path: The `.tflite` file.
        low: See `Pixels`.
        high: See `Pixels`.
        color: See `Pixels`.
        num_threads: Int, CPU threads; None for the runtime's choice.

    Raises:
        ValueError: The file cannot be read or is no model of images to embeddings.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        low: float = 0.0,
        high: float = 255.0,
        color: str = "rgb",
        num_threads: int | None = None,
    ):
        self.name = str(path)
        try:
            self._interpreter = make_interpreter(path, num_threads)
            self._interpreter.allocate_tensors()
        except (OSError, RuntimeError, ValueError) as error:
            raise loading_error(path, error) from error
        inputs = self._interpreter.get_input_details()
        if len(inputs) != 1:
            names = [i["name"] for i in inputs]
            raise ValueError(f"{path} must have one input. Received: {names}")
        shape = tuple(map(int, inputs[0]["shape"]))
        self.input_size, channels_first = square_side(self.name, shape)
        self._batch = shape[0]
        self._input = inputs[0]
        dtype = self._input["dtype"]
        is_plain = dtype in (np.uint8, np.float32)
        self._pixels = Pixels(
            dtype if is_plain else np.float32, channels_first, low, high, color
        )
        outputs = self._interpreter.get_output_details()
        shapes = {o["name"]: tuple(map(int, o["shape"])) for o in outputs}
        chosen = check_outputs(self.name, shapes)
        self._output = next(o for o in outputs if o["name"] == chosen)
        self.embedding_dim = shapes[chosen][1]
        self.fingerprint = content_hash(path, low, high, color)

    @property
    def partitions(self) -> int:
        """Pieces of the graph that XNNPACK runs; 1 where it runs all of it.

        Between two pieces the reference kernels run, which are slow, and tensors are
        copied. 0: the interpreter runs without XNNPACK.
        """
        # Not public, but the one place where both runtimes say it.
        operators = self._interpreter._get_ops_details()
        return sum(operator["op_name"] == "DELEGATE" for operator in operators)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        pixels = self._pixels(images)
        if pixels.dtype != self._input["dtype"]:
            pixels = _quantise(pixels, self._input)
        rows = in_batches(self._run, pixels, self._batch)
        return _dequantise(rows, self._output).astype(np.float32, copy=False)

    def _run(self, pixels):
        self._interpreter.set_tensor(self._input["index"], pixels)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output["index"])


def _quantise(values, tensor):
    scale, zero_point = tensor["quantization"]
    limits = np.iinfo(tensor["dtype"])
    steps = np.rint(values / scale + zero_point)
    return steps.clip(limits.min, limits.max).astype(tensor["dtype"])


def _dequantise(values, tensor):
    scale, zero_point = tensor["quantization"]
    if not np.issubdtype(values.dtype, np.integer):
        return values
    return (values.astype(np.float32) - zero_point) * scale


def make_interpreter(path: str | os.PathLike, num_threads: int | None = None) -> Any:
    """Returns an interpreter of a `.tflite` file: LiteRT's where it is installed."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow as tf

        Interpreter = tf.lite.Interpreter
    content = pathlib.Path(path).read_bytes()
    with warnings.catch_warnings():
        # tf.lite announces its own deletion at every construction. It is meant here:
        # TensorFlow is a requirement of this package, the successor is not.
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter")
        return Interpreter(model_content=content, num_threads=num_threads)
