"""Students as artefacts to deploy, each proven equal to the Keras model."""

from ekd_tf.export.parity import ArtefactReport
from ekd_tf.export.parity import ExportReport
from ekd_tf.export.parity import ParityError
from ekd_tf.export.parity import ParityReport
from ekd_tf.export.parity import check_parity
from ekd_tf.export.parity import export_student
from ekd_tf.export.precision import as_float32
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
    "ExportReport",
    "ParityError",
    "ParityReport",
    "SavedModelEmbedder",
    "TFLiteModel",
    "as_float32",
    "check_parity",
    "check_student",
    "convert_tflite",
    "export_saved_model",
    "export_student",
    "tflite_ops",
    "write_tflite",
]
