"""Where teacher embeddings come from."""

from ekd_tf.teachers.cache import DTYPES
from ekd_tf.teachers.cache import CacheWriter
from ekd_tf.teachers.cache import TeacherCache
from ekd_tf.teachers.frozen import FrozenEmbedder
from ekd_tf.teachers.frozen import content_hash
from ekd_tf.teachers.keras_model import MODEL_FILE
from ekd_tf.teachers.keras_model import KerasEmbedder
from ekd_tf.teachers.keras_model import load_embedder
from ekd_tf.teachers.keras_model import model_file
from ekd_tf.teachers.onnx_model import OnnxEmbedder
from ekd_tf.teachers.saved_model import SavedModelEmbedder
from ekd_tf.teachers.tflite_model import TFLiteEmbedder
from ekd_tf.teachers.torch_file import read_state_dict
from ekd_tf.teachers.torch_state import TorchEmbedder
from ekd_tf.teachers.torch_state import open_torch

__all__ = [
    "DTYPES",
    "MODEL_FILE",
    "CacheWriter",
    "FrozenEmbedder",
    "KerasEmbedder",
    "OnnxEmbedder",
    "SavedModelEmbedder",
    "TFLiteEmbedder",
    "TeacherCache",
    "TorchEmbedder",
    "content_hash",
    "load_embedder",
    "model_file",
    "open_torch",
    "read_state_dict",
]
