"""ONNX conversion of a student."""

from __future__ import annotations

import keras
import tensorflow as tf

from ekd_tf.export.saved_model import SIGNATURE
from ekd_tf.export.saved_model import endpoints
from ekd_tf.export.tflite import ConversionError

OPSET = 17


def convert_onnx(student: keras.Model) -> bytes:
    """Converts a student, as `as_float32` returns it, to ONNX, operator set 17.

    Returns:
        The content of the `.onnx` file, which maps `images`, uint8
        `(n, height, width, 3)` RGB for any n, to `embedding`, float32 `(n, dim)` of
        Euclidean length 1.

    Raises:
        ConversionError: The converter failed.
        ValueError: tf2onnx is not installed.
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
        model, _ = tf2onnx.convert.from_function(
            embed, input_signature=[spec], opset=OPSET
        )
    # The converter raises what its libraries do; each means the same here.
    except Exception as error:
        raise ConversionError(f"The ONNX converter failed: {error}") from error
    return model.SerializeToString()
