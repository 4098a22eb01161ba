"""Trained models from `.onnx` files, by onnxruntime."""

from __future__ import annotations

import pathlib

import numpy as np

from ekd_tf.teachers.frozen import FrozenEmbedder
from ekd_tf.teachers.frozen import Pixels
from ekd_tf.teachers.frozen import check_outputs
from ekd_tf.teachers.frozen import content_hash
from ekd_tf.teachers.frozen import square_side

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}


class OnnxEmbedder(FrozenEmbedder):
    """Embeds by an ONNX model of RGB images, channels first or last.

    Args:
        path: The `.onnx` file.
        low: Float, what a model of float input is given for a pixel of 0. The default
            range 0 .. 255 suits models that normalise inside; many of insightface's
            take -1 .. 1.
        high: Float, the same for 255.

    Raises:
        ValueError: onnxruntime is not installed, the file cannot be read, or it is no
            model of images to embeddings.
    """

    def __init__(self, path, low: float = 0.0, high: float = 255.0):
        try:
            import onnxruntime
        except ImportError as error:
            raise ValueError(
                f"{path} needs onnxruntime: pip install 'ekd-tf[onnx]'"
            ) from error
        self.name = str(path)
        try:
            self._session = onnxruntime.InferenceSession(
                pathlib.Path(path).read_bytes(), providers=["CPUExecutionProvider"]
            )
        # onnxruntime raises a dozen kinds for one thing: the file is no good.
        except Exception as error:
            raise ValueError(
                f"{path} cannot be loaded by onnxruntime: {error}"
            ) from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in _DTYPES:
            raise ValueError(
                f"{path} must have one input of float, float16 or uint8. Received: "
                f"{[(i.name, i.type) for i in inputs]}"
            )
        self._input = inputs[0].name
        self.input_size, channels_first = square_side(self.name, inputs[0].shape)
        dtype = _DTYPES[inputs[0].type]
        self._pixels = Pixels(dtype, channels_first, low, high)
        outputs = {o.name: tuple(o.shape) for o in self._session.get_outputs()}
        self._output = check_outputs(self.name, outputs)
        self.embedding_dim = outputs[self._output][1]
        self._one_by_one = inputs[0].shape[0] == 1
        self.fingerprint = content_hash(path, low, high)

    def __call__(self, images) -> np.ndarray:
        pixels = self._pixels(images)
        parts = np.split(pixels, len(pixels)) if self._one_by_one else [pixels]
        rows = [self._session.run([self._output], {self._input: p})[0] for p in parts]
        return np.concatenate(rows).astype(np.float32, copy=False)
