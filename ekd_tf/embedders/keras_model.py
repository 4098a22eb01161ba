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
from ekd_tf.models.own import check_shapes
from ekd_tf.models.own import is_function
from ekd_tf.models.own import load_function

# What a finished run leaves in its workdir: the network and its settings.
MODEL_FILE, RUN_FILE = "model.keras", "run.json"
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
        where = f"{path} does not exist"
        if path.is_dir():
            where = f"{path} holds no {MODEL_FILE}, as a finished run does"
        raise ValueError(
            f"{where}. Give a `.keras` file, the workdir of a finished run, or of an "
            "export the folder of its version or one of its files"
        )
    if file.suffix != ".keras":
        raise ValueError(
            f"{file} cannot be loaded: a Keras model must be a `.keras` file. Load it "
            "where it was made and save it as one; `open_embedder` opens other formats"
        )
    if not zipfile.is_zipfile(file):
        # Keras would say that there is no such file.
        raise ValueError(
            f"{file} cannot be loaded: it is no zip archive, as `.keras` files are, or "
            "was cut. Copy it again"
        )
    try:
        # The module that a run's network is from may have layers.
        if (path / RUN_FILE).is_file():
            run = json.loads((path / RUN_FILE).read_text(encoding="utf-8-sig"))
            if is_function(run["flags"]["model"]):
                load_function(run["flags"]["model"])
        model = keras.models.load_model(file, compile=False)
    # Keras raises a dozen kinds, from zipfile's to its own.
    except Exception as error:
        raise loading_error(file, error) from error
    check_shapes(model, str(file))
    _check_no_unused_weights(file, model)
    model.trainable = False
    return model


def model_file(path: str | os.PathLike) -> pathlib.Path:
    """Returns the `.keras` file of a run's workdir, or the file itself."""
    path = pathlib.Path(path)
    return path / MODEL_FILE if path.is_dir() else path


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
