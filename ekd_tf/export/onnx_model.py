"""ONNX conversion of an exported student, and a runner of it."""

from __future__ import annotations

import os
import pathlib

import numpy as np
import tensorflow as tf

from ekd_tf.export.measure import time_images
from ekd_tf.export.saved_model import SavedModelEmbedder
from ekd_tf.export.saved_model import check_images
from ekd_tf.export.tflite import ConversionError

OPSET = 17
_INSTALL = (
    "ONNX needs tf2onnx and onnxruntime, and TensorFlow 2.18 or later: pip install "
    "tf2onnx onnxruntime"
)


def convert_onnx(source) -> bytes:
    """Converts an exported student to ONNX, operator set 17.

    The result maps `images`, uint8 `(n, height, width, 3)` RGB for any n, to
    `embedding`, float32 `(n, dim)` of Euclidean length 1.

    Args:
        source: The directory of a SavedModel written by `export_saved_model`.

    Returns:
        The content of the `.onnx` file.

    Raises:
        ConversionError: The converter failed.
        ValueError: tf2onnx is not installed, or the source is no such directory.
    """
    try:
        import tf2onnx
    except ImportError as error:
        raise ValueError(f"{_INSTALL}. Received: {error}") from error
    embedder = SavedModelEmbedder(source)
    specs = [tf.TensorSpec((None, *embedder.image_shape), tf.uint8, name="images")]
    embed = tf.function(
        lambda images: {"embedding": embedder.signature(images=images)["embedding"]},
        input_signature=specs,
    )
    try:
        model, _ = tf2onnx.convert.from_function(
            embed, input_signature=specs, opset=OPSET
        )
    # The converter raises what its libraries do; each means the same here.
    except Exception as error:
        raise ConversionError(f"The ONNX converter failed: {error}") from error
    return model.SerializeToString()


class OnnxModel:
    """Embeds images with an ONNX file in onnxruntime, on the CPU.

    Args:
        path: The `.onnx` file.
        num_threads: Int >= 1.

    Raises:
        ValueError: onnxruntime is not installed, or the model does not map uint8
            images to embeddings.
    """

    def __init__(self, path, num_threads: int = 1):
        try:
            import onnxruntime
        except ImportError as error:
            raise ValueError(f"{_INSTALL}. Received: {error}") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        self._session = onnxruntime.InferenceSession(
            os.fspath(path), options, providers=["CPUExecutionProvider"]
        )
        (image,) = self._session.get_inputs()
        if image.type != "tensor(uint8)" or len(image.shape) != 4:
            raise ValueError(
                f"{pathlib.Path(path).name} must take uint8 images (n, height, width, "
                f"3). Received: {image.type} {image.shape}"
            )
        self.image_shape = tuple(image.shape[1:])
        self._input = image.name

    def __call__(self, images) -> np.ndarray:
        """Returns the float32 embeddings `(n, dim)` of uint8 images."""
        images = check_images(images, self.image_shape)
        return self._session.run(None, {self._input: images})[0]

    def latency(self, images, repeats: int = 50) -> tuple[float, float]:
        """Times single images as `TFLiteModel.latency` does."""
        images = check_images(images, self.image_shape)
        return time_images(lambda image: self(image[None]), images, repeats)
