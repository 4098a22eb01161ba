"""Students as artefacts to deploy, each proven equal to the Keras model."""

from ekd_tf.export.bundle import DEFAULT_FORMATS
from ekd_tf.export.bundle import FORMATS
from ekd_tf.export.bundle import export_student
from ekd_tf.export.card import make_card
from ekd_tf.export.onnx_model import convert_onnx
from ekd_tf.export.parity import GATES
from ekd_tf.export.parity import ArtefactReport
from ekd_tf.export.parity import ExportReport
from ekd_tf.export.parity import Gate
from ekd_tf.export.parity import ParityError
from ekd_tf.export.parity import ParityReport
from ekd_tf.export.precision import as_float32
from ekd_tf.export.saved_model import check_student
from ekd_tf.export.saved_model import write_saved_model
from ekd_tf.export.tflite import ConversionError
from ekd_tf.export.tflite import convert_tflite
from ekd_tf.export.tflite import tflite_ops

__all__ = [
    "ArtefactReport",
    "ConversionError",
    "DEFAULT_FORMATS",
    "ExportReport",
    "FORMATS",
    "GATES",
    "Gate",
    "ParityError",
    "ParityReport",
    "as_float32",
    "check_student",
    "convert_onnx",
    "convert_tflite",
    "export_student",
    "make_card",
    "tflite_ops",
    "write_saved_model",
]
