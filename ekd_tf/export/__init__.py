"""Students as artefacts to deploy, each proven equal to the Keras model."""

from ekd_tf.export.bundle import DEFAULT_FORMATS
from ekd_tf.export.bundle import FORMATS
from ekd_tf.export.bundle import export_student
from ekd_tf.export.card import make_card
from ekd_tf.export.frozen import FrozenEndpoint
from ekd_tf.export.frozen import freeze
from ekd_tf.export.gates import GATES
from ekd_tf.export.gates import Gate
from ekd_tf.export.onnx_model import OnnxModel
from ekd_tf.export.onnx_model import convert_onnx
from ekd_tf.export.parity import ParityError
from ekd_tf.export.parity import ParityReport
from ekd_tf.export.parity import check_parity
from ekd_tf.export.precision import as_float32
from ekd_tf.export.report import ArtefactReport
from ekd_tf.export.report import ExportReport
from ekd_tf.export.saved_model import SavedModelEmbedder
from ekd_tf.export.saved_model import check_student
from ekd_tf.export.saved_model import export_saved_model
from ekd_tf.export.tflite import ConversionError
from ekd_tf.export.tflite import TFLiteModel
from ekd_tf.export.tflite import convert_tflite
from ekd_tf.export.tflite import tflite_ops
from ekd_tf.export.tflite import write_tflite

__all__ = [
    "ArtefactReport",
    "ConversionError",
    "DEFAULT_FORMATS",
    "ExportReport",
    "FORMATS",
    "FrozenEndpoint",
    "GATES",
    "Gate",
    "OnnxModel",
    "ParityError",
    "ParityReport",
    "SavedModelEmbedder",
    "TFLiteModel",
    "as_float32",
    "check_parity",
    "check_student",
    "convert_onnx",
    "convert_tflite",
    "export_saved_model",
    "export_student",
    "freeze",
    "make_card",
    "tflite_ops",
    "write_tflite",
]
