"""Trained backbones from `.keras` files and from the workdirs of runs."""

from __future__ import annotations

import io
import json
import os
import pathlib
import zipfile

import h5py
import keras
import tensorflow as tf

import ekd_tf.models  # noqa: F401  registers the layers `.keras` files name
from ekd_tf.embedders.frozen import FrozenEmbedder
from ekd_tf.embedders.frozen import content_hash
from ekd_tf.embedders.frozen import in_traced_batches
from ekd_tf.embedders.frozen import loading_error
from ekd_tf.models.own import is_function
from ekd_tf.models.own import load_function

# The file a finished run leaves in its workdir.
MODEL_FILE = "model.keras"
# What a run leaves of its settings.
RUN_FILE = "run.json"
_OF_TRAINING = ("optimizer", "metrics")


class KerasEmbedder(FrozenEmbedder):
    """Embeds by a backbone, `model`, in inference mode; see `load_embedder`."""

    traceable = True

    def __init__(self, path: str | os.PathLike):
        self._take(path, load_embedder(path), content_hash(model_file(path)))

    def _take(self, path, model, fingerprint):
        self.name = str(path)
        self.model = model
        self.input_size = model.input_shape[1]
        self.embedding_dim = model.output_shape[1]
        self.fingerprint = fingerprint

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        batch = self.model.input_shape[0]
        if batch is None:
            return self.model(images, training=False)
        return in_traced_batches(self._run, tf.convert_to_tensor(images), batch)

    def _run(self, images):
        return tf.cast(self.model(images, training=False), tf.float32)


def load_embedder(path: str | os.PathLike) -> keras.Model:
    """Loads a backbone, frozen, from a `.keras` file or a run's workdir.

    It maps uint8 images `(batch, height, width, 3)` to float embeddings `(batch, dim)`;
    a file of which a weight is missing or unexpected is refused.
    """
    path = pathlib.Path(path)
    file = model_file(path)
    if not file.is_file():
        where = (
            f"{path} holds no {MODEL_FILE}, as a finished run does"
            if path.is_dir()
            else f"{path} does not exist"
        )
        raise ValueError(
            f"{where}. Give a `.keras` file, the workdir of a finished run, or of an "
            "export the folder of its version or one of its files"
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
        _import_layers(path / RUN_FILE)
        model = keras.models.load_model(file, compile=False)
    # Keras raises a dozen kinds, from zipfile's to its own.
    except Exception as error:
        raise loading_error(file, error) from error
    _check_shapes(file, model)
    _check_no_unused_weights(file, model)
    model.trainable = False
    return model


def _import_layers(run):
    """Imports the module that a run's network is from, which may have layers."""
    if run.is_file():
        spec = json.loads(run.read_text(encoding="utf-8-sig"))["flags"]["model"]
        if is_function(spec):
            load_function(spec)


def model_file(path: str | os.PathLike) -> pathlib.Path:
    """Returns the `.keras` file of a run's workdir, or the file itself."""
    path = pathlib.Path(path)
    return path / MODEL_FILE if path.is_dir() else path


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
    is_image = isinstance(inputs, tuple) and inputs[1:] == (inputs[1], inputs[1], 3)
    is_row = isinstance(outputs, tuple) and len(outputs) == 2
    if not is_image or not is_row or inputs[1] is None:
        raise ValueError(
            f"{file} must map images (batch, size, size, 3) of a fixed size to "
            f"embeddings (batch, dim). Received: input {inputs}, output {outputs}"
        )


def _check_no_unused_weights(file, model):
    """Raises `ValueError` where a file holds more weights than its model.

    Keras refuses a file in which a layer lacks a weight or has one too many, and
    passes over whole layers the model does not have.
    """
    held = []

    def visit(name, item):
        # What belongs to training is no part of the model as an embedder.
        is_weight = isinstance(item, h5py.Dataset) and "seed_generator" not in name
        if is_weight and not name.startswith(_OF_TRAINING):
            held.append(name)

    with zipfile.ZipFile(file) as archive:
        weights = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(weights, "r") as weights:
        weights.visititems(visit)
    if len(held) > len(model.weights):
        raise ValueError(
            f"{file} holds {len(held)} weights, of which its model takes "
            f"{len(model.weights)}. A layer of the model does not say all it is made "
            "of in its get_config(), or the file is not what its maker saved"
        )
