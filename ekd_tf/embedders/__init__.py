"""Trained models of any format as functions of images, and caches of embeddings."""

from ekd_tf.embedders.cache import CacheWriter as CacheWriter
from ekd_tf.embedders.cache import TeacherCache as TeacherCache
from ekd_tf.embedders.cache import describe_cache as describe_cache
from ekd_tf.embedders.ensemble import EnsembleEmbedder as EnsembleEmbedder
from ekd_tf.embedders.frozen import FrozenEmbedder as FrozenEmbedder
from ekd_tf.embedders.frozen import content_hash as content_hash
from ekd_tf.embedders.keras_model import MODEL_FILE as MODEL_FILE
from ekd_tf.embedders.keras_model import KerasEmbedder as KerasEmbedder
from ekd_tf.embedders.keras_model import load_embedder as load_embedder
from ekd_tf.embedders.keras_model import model_file as model_file
from ekd_tf.embedders.onnx_model import OnnxEmbedder as OnnxEmbedder
from ekd_tf.embedders.opening import file_of_model as file_of_model
from ekd_tf.embedders.opening import in_other_ranges as in_other_ranges
from ekd_tf.embedders.opening import open_embedder as open_embedder
from ekd_tf.embedders.saved_model import SavedModelEmbedder as SavedModelEmbedder
from ekd_tf.embedders.tflite_model import TFLiteEmbedder as TFLiteEmbedder
from ekd_tf.embedders.torch_file import TorchEmbedder as TorchEmbedder
from ekd_tf.embedders.torch_file import read_state_dict as read_state_dict
