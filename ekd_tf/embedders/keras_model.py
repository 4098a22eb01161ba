"""Trained backbones from `.keras` files and from the workdirs of runs."""

from __future__ import annotations

import pathlib
import zipfile

import keras
import tensorflow as tf

import ekd_tf.models  # noqa: F401  registers the layers `.keras` files name
from ekd_tf.embedders.frozen import FrozenEmbedder
from ekd_tf.embedders.frozen import content_hash
from ekd_tf.embedders.frozen import in_traced_batches
from ekd_tf.embedders.frozen import loading_error
from ekd_tf.embedders.unused_weights import check_no_unused_weights

# What a run leaves in its workdir for whoever comes next.
MODEL_FILE = "model.keras"


def load_embedder(path) -> keras.Model:
    """Loads a backbone, frozen, from a `.keras` file or a run's workdir.

    Args:
        path: A `.keras` file, or a workdir that holds `model.keras`.

    Returns:
        `keras.Model`, not trainable: uint8 images `(batch, height, width, 3)` to
        float embeddings `(batch, dim)`.

    Raises:
        ValueError: There is no such file, it cannot be read as a model, a weight is
            missing or unexpected, or it is no model of images to embeddings.
    """
    path = pathlib.Path(path)
    file = model_file(path)
    if not file.is_file():
        where = (
            f"{path} holds no {MODEL_FILE}: the run in it has not finished"
            if path.is_dir()
            else f"{path} does not exist"
        )
        raise ValueError(
            f"{where}. Give a `.keras` file or the workdir of a finished run"
        )
    if file.suffix != ".keras":
        raise ValueError(
            f"{file} cannot be loaded: a Keras model must be a `.keras` file. Load it "
            "where it was made and save it as one"
        )
    if not zipfile.is_zipfile(file):
        # Keras would say that there is no such file.
        raise ValueError(
            f"{file} cannot be loaded: it is no zip archive, as `.keras` files are, or "
            "was cut. Copy it again"
        )
    try:
        model = keras.models.load_model(file, compile=False)
    except Exception as error:
        # Keras raises a dozen kinds, from zipfile's to its own; each means the same
        # to the reader of the message.
        raise loading_error(file, error) from error
    _check_shapes(file, model)
    check_no_unused_weights(file, model)
    model.trainable = False
    return model


def model_file(path) -> pathlib.Path:
    """Returns the `.keras` file of a run's workdir, or the file itself."""
    path = pathlib.Path(path)
    return path / MODEL_FILE if path.is_dir() else path


class KerasEmbedder(FrozenEmbedder):
    """Embeds by a backbone in inference mode; see `load_embedder`.

    A model of a fixed batch is given batches of that size, the last one filled up.

    Args:
        path: A `.keras` file, or a workdir that holds `model.keras`.

    Attributes:
        model: The `keras.Model`.
    """

    traceable = True

    def __init__(self, path):
        self.name = str(path)
        self.model = load_embedder(path)
        self.input_size = self.model.input_shape[1]
        self.embedding_dim = self.model.output_shape[1]
        self.fingerprint = content_hash(model_file(path))

    def __call__(self, images):
        batch = self.model.input_shape[0]
        if batch is None:
            return self.model(images, training=False)
        return in_traced_batches(self._run, tf.convert_to_tensor(images), batch)

    def _run(self, images):
        return tf.cast(self.model(images, training=False), tf.float32)


def _check_shapes(file, model):
    """Raises `ValueError` unless the model maps square images to rows."""
    try:
        inputs, outputs = model.input_shape, model.output_shape
    # Sequential ones without an Input, and subclasses.
    except (AttributeError, ValueError) as error:
        raise ValueError(
            f"{file} cannot be loaded: it does not say what it takes. Give the model a "
            "keras.Input((size, size, 3)) and save it again"
        ) from error
    is_embedder = (
        isinstance(inputs, tuple)
        and isinstance(outputs, tuple)
        and len(inputs) == 4
        and inputs[-1] == 3
        and inputs[1] is not None
        and inputs[1] == inputs[2]
        and len(outputs) == 2
    )
    if not is_embedder:
        raise ValueError(
            f"{file} must map images (batch, size, size, 3) to embeddings "
            f"(batch, dim). Received: input {inputs}, output {outputs}"
        )
