"""Trained models of any format as functions of images, and caches of embeddings."""

from ekd_tf.embedders.cache import TeacherCache
from ekd_tf.embedders.cache_writer import CacheWriter
from ekd_tf.embedders.cache_writer import describe_cache
from ekd_tf.embedders.ensemble import EnsembleEmbedder
from ekd_tf.embedders.frozen import FrozenEmbedder
from ekd_tf.embedders.frozen import content_hash
from ekd_tf.embedders.keras_model import MODEL_FILE
from ekd_tf.embedders.keras_model import KerasEmbedder
from ekd_tf.embedders.keras_model import load_embedder
from ekd_tf.embedders.keras_model import model_file
from ekd_tf.embedders.onnx_model import OnnxEmbedder
from ekd_tf.embedders.opening import file_of_model
from ekd_tf.embedders.opening import in_other_ranges
from ekd_tf.embedders.opening import open_embedder
from ekd_tf.embedders.opening import split_model
from ekd_tf.embedders.opening import takes_any_range
from ekd_tf.embedders.saved_model import SavedModelEmbedder
from ekd_tf.embedders.tflite_model import TFLiteEmbedder
from ekd_tf.embedders.torch_file import TorchEmbedder
from ekd_tf.embedders.torch_file import read_state_dict

__all__ = [
    "MODEL_FILE",
    "CacheWriter",
    "EnsembleEmbedder",
    "FrozenEmbedder",
    "KerasEmbedder",
    "OnnxEmbedder",
    "SavedModelEmbedder",
    "TFLiteEmbedder",
    "TeacherCache",
    "TorchEmbedder",
    "content_hash",
    "describe_cache",
    "file_of_model",
    "in_other_ranges",
    "load_embedder",
    "model_file",
    "open_embedder",
    "read_state_dict",
    "split_model",
    "takes_any_range",
]
