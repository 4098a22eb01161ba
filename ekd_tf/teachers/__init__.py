"""Where teacher embeddings come from."""

from ekd_tf.teachers.keras_model import MODEL_FILE
from ekd_tf.teachers.keras_model import load_embedder

__all__ = ["MODEL_FILE", "load_embedder"]
