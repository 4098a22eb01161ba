"""Trained models from `.tflite` files, by LiteRT or TensorFlow's own interpreter."""

from __future__ import annotations

import pathlib
import warnings

import numpy as np

from ekd_tf.embedders.frozen import FrozenEmbedder
from ekd_tf.embedders.frozen import Pixels
from ekd_tf.embedders.frozen import check_outputs
from ekd_tf.embedders.frozen import content_hash
from ekd_tf.embedders.frozen import in_batches
from ekd_tf.embedders.frozen import loading_error
from ekd_tf.embedders.frozen import square_side


class TFLiteEmbedder(FrozenEmbedder):
    """Embeds by a TFLite model, as many images at a time as it is made for.

    That is nearly always one. Of several, the last batch is filled up.

    Quantised inputs and outputs are converted by their scale and zero point, except a
    uint8 input, which takes pixels as they are.

    Args:
        path: The `.tflite` file.
        low: Float, what a model of float input is given for a pixel of 0.
        high: Float, the same for 255.
        color: "rgb" or "bgr", the order of the channels the model takes.

    Raises:
        ValueError: The file cannot be read or is no model of images to embeddings.
    """

    def __init__(self, path, low: float = 0.0, high: float = 255.0, color: str = "rgb"):
        self.name = str(path)
        try:
            self._interpreter = _interpreter(pathlib.Path(path).read_bytes())
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

    def __call__(self, images) -> np.ndarray:
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


def _interpreter(content):
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow as tf

        Interpreter = tf.lite.Interpreter
    with warnings.catch_warnings():
        # tf.lite announces its own deletion at every construction. It is meant here:
        # TensorFlow is a requirement of this package, the successor is not.
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter")
        return Interpreter(model_content=content)
