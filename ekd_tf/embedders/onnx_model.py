"""Trained models from `.onnx` files, by onnxruntime."""

from __future__ import annotations

import os
import pathlib

import numpy as np

from ekd_tf.embedders.frozen import FrozenEmbedder
from ekd_tf.embedders.frozen import Pixels
from ekd_tf.embedders.frozen import check_outputs
from ekd_tf.embedders.frozen import content_hash
from ekd_tf.embedders.frozen import in_batches
from ekd_tf.embedders.frozen import loading_error
from ekd_tf.embedders.frozen import square_side

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}


class OnnxEmbedder(FrozenEmbedder):
    """Embeds by an ONNX model of images, channels first or last.

    A model of a fixed batch is given batches of that size, the last one filled up.

    Args:
        path: The `.onnx` file. Weights in files of their own must lie where it says,
            in its folder or below; they count for the fingerprint.
        low: Float, what a model of float input is given for a pixel of 0. The default
            range 0 .. 255 suits models that normalise inside; many of insightface's
            take -1 .. 1.
        high: Float, the same for 255.
        color: "rgb" or "bgr", the order of the channels the model takes.

    Raises:
        ValueError: onnxruntime or onnx is not installed, a file cannot be read, or it
            is no model of images to embeddings.
    """

    def __init__(self, path, low: float = 0.0, high: float = 255.0, color: str = "rgb"):
        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise ValueError(
                f"{path} needs onnx and onnxruntime: pip install 'ekd-tf[onnx]'"
            ) from error
        self.name = str(path)
        try:
            # By its path: from bytes, weights beside it would not be found.
            self._session = onnxruntime.InferenceSession(
                os.fspath(path), providers=["CPUExecutionProvider"]
            )
            model = onnx.load(os.fspath(path), load_external_data=False)
        # Both raise a dozen kinds for one thing: the file is no good.
        except Exception as error:
            raise loading_error(path, error) from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in _DTYPES:
            raise ValueError(
                f"{path} must have one input of float, float16 or uint8. Received: "
                f"{[(i.name, i.type) for i in inputs]}"
            )
        self._input = inputs[0].name
        self.input_size, channels_first = square_side(self.name, inputs[0].shape)
        dtype = _DTYPES[inputs[0].type]
        self._pixels = Pixels(dtype, channels_first, low, high, color)
        outputs = {o.name: tuple(o.shape) for o in self._session.get_outputs()}
        self._output = check_outputs(self.name, outputs)
        self.embedding_dim = outputs[self._output][1]
        batch = inputs[0].shape[0]
        self._batch = batch if isinstance(batch, int) else None
        folder = pathlib.Path(path).parent
        weights = [content_hash(folder / n) for n in sorted(_external_files(model))]
        self.fingerprint = content_hash(path, low, high, color, *weights)

    def __call__(self, images) -> np.ndarray:
        pixels = self._pixels(images)
        rows = in_batches(self._run, pixels, self._batch or max(1, len(pixels)))
        return rows.astype(np.float32, copy=False)

    def _run(self, pixels):
        return self._session.run([self._output], {self._input: pixels})[0]


def _external_files(message) -> set[str]:
    """Returns the files, relative to the model's, that hold tensors of a model.

    Tensors stand in the graph, in graphs within it, in attributes and in functions.
    """
    if message.DESCRIPTOR.name == "TensorProto":
        return {e.value for e in message.external_data if e.key == "location"}
    found = set()
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                found |= _external_files(part)
    return found
