"""Trained models from `.tflite` files, by LiteRT or TensorFlow's own interpreter."""

from __future__ import annotations

import os
import pathlib
import warnings
from typing import Any

import numpy as np

from ekd_tf.embedders.frozen import PixelEmbedder
from ekd_tf.embedders.frozen import loading_error


class TFLiteEmbedder(PixelEmbedder):
    """Embeds by a TFLite model.

    Quantised inputs and outputs are converted by their scale and zero point, except a
    uint8 input, which takes pixels as they are. Arguments as `PixelEmbedder`.
    """

    runtime = "the TFLite interpreter"

    def _open(self, path, num_threads=None):
        try:
            self._interpreter = make_interpreter(path, num_threads)
            self._interpreter.allocate_tensors()
        except (OSError, RuntimeError, ValueError) as error:
            raise loading_error(path, error) from error
        inputs = {i["name"]: i for i in self._interpreter.get_input_details()}
        outputs = {o["name"]: o for o in self._interpreter.get_output_details()}
        self._take_shapes(
            {name: tuple(i["shape"].tolist()) for name, i in inputs.items()},
            {name: tuple(o["shape"].tolist()) for name, o in outputs.items()},
        )
        self._tensor, self._result = inputs[self._input], outputs[self._output]
        self.fingerprint = self._hash(path)

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
        dtype = self._tensor["dtype"]
        if dtype in (np.uint8, np.float32):
            pixels = self._pixels(images, dtype)
        else:
            scale, zero_point = self._tensor["quantization"]
            steps = np.rint(self._pixels(images, np.float32) / scale + zero_point)
            limits = np.iinfo(dtype)
            pixels = steps.clip(limits.min, limits.max).astype(dtype)
        rows = self._in_batches(pixels)
        if np.issubdtype(rows.dtype, np.integer):
            scale, zero_point = self._result["quantization"]
            rows = (rows.astype(np.float32) - zero_point) * scale
        return rows.astype(np.float32, copy=False)

    def _run(self, pixels):
        self._interpreter.set_tensor(self._tensor["index"], pixels)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._result["index"])


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
