"""Trained models from `.onnx` files, by onnxruntime."""

from __future__ import annotations

import os

import numpy as np

from ekd_tf.embedders.frozen import PixelEmbedder
from ekd_tf.embedders.frozen import content_hash
from ekd_tf.embedders.frozen import loading_error

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}


class OnnxEmbedder(PixelEmbedder):
    """Embeds by an ONNX model of images, channels first or last.

    Weights in files of their own must lie where the model says, in its folder or below;
    they count for the fingerprint. Arguments as `PixelEmbedder`.
    """

    def _open(self, path, num_threads=None):
        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise ValueError(
                f"{path} needs onnx and onnxruntime: pip install 'ekd-tf[onnx]'"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads or 0
        try:
            # By its path: from bytes, weights beside it would not be found.
            self._session = onnxruntime.InferenceSession(
                os.fspath(path), options, providers=["CPUExecutionProvider"]
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
        self._input, self._dtype = inputs[0].name, _DTYPES[inputs[0].type]
        outputs = {o.name: tuple(o.shape) for o in self._session.get_outputs()}
        self._take_shapes(inputs[0].shape, outputs)
        beside = (self._path.parent / n for n in sorted(_external_files(model)))
        self.fingerprint = self._hash(path, *map(content_hash, beside))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        rows = self._in_batches(self._pixels(images, self._dtype))
        return rows.astype(np.float32, copy=False)

    def _run(self, pixels):
        return self._session.run([self._output], {self._input: pixels})[0]


def _external_files(message):
    """Returns the files that hold tensors of the graph, inner graphs or functions."""
    if message.DESCRIPTOR.name == "TensorProto":
        return {e.value for e in message.external_data if e.key == "location"}
    files = set()
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                files |= _external_files(part)
    return files
