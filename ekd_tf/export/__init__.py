"""Students as artefacts to deploy, each proven equal to the Keras model."""

from ekd_tf.export.bundle import export_student
from ekd_tf.export.convert import ConversionError
from ekd_tf.export.convert import convert_onnx
from ekd_tf.export.convert import convert_tflite
from ekd_tf.export.parity import ArtefactReport
from ekd_tf.export.parity import ExportReport
from ekd_tf.export.parity import ParityError

__all__ = [
    "ArtefactReport",
    "ConversionError",
    "ExportReport",
    "ParityError",
    "convert_onnx",
    "convert_tflite",
    "export_student",
]
