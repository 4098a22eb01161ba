"""Students as artefacts to deploy, each proven equal to the Keras model."""

from ekd_tf.export.bundle import export_student as export_student
from ekd_tf.export.convert import ConversionError as ConversionError
from ekd_tf.export.convert import convert_onnx as convert_onnx
from ekd_tf.export.convert import convert_tflite as convert_tflite
from ekd_tf.export.parity import ExportReport as ExportReport
from ekd_tf.export.parity import ParityError as ParityError
