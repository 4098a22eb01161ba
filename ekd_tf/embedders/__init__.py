"""Where teacher embeddings come from."""

from ekd_tf.embedders.cache import DTYPES
from ekd_tf.embedders.cache import CacheWriter
from ekd_tf.embedders.cache import TeacherCache
from ekd_tf.embedders.frozen import FrozenEmbedder
from ekd_tf.embedders.frozen import content_hash
from ekd_tf.embedders.keras_model import MODEL_FILE
from ekd_tf.embedders.keras_model import KerasEmbedder
from ekd_tf.embedders.keras_model import load_embedder
from ekd_tf.embedders.keras_model import model_file
from ekd_tf.embedders.onnx_model import OnnxEmbedder
from ekd_tf.embedders.saved_model import SavedModelEmbedder
from ekd_tf.embedders.tflite_model import TFLiteEmbedder
from ekd_tf.embedders.torch_file import read_state_dict
from ekd_tf.embedders.torch_state import TorchEmbedder
from ekd_tf.embedders.torch_state import open_torch

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
