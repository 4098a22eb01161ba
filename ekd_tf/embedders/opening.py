"""A trained model from the word that names it on the command line."""

from __future__ import annotations

import os
import pathlib
import re
from typing import Any

import numpy as np
import tensorflow as tf

from ekd_tf.embedders.cache import is_cache
from ekd_tf.embedders.ensemble import EnsembleEmbedder
from ekd_tf.embedders.frozen import FrozenEmbedder
from ekd_tf.embedders.frozen import loading_error
from ekd_tf.embedders.keras_model import KerasEmbedder
from ekd_tf.embedders.keras_model import model_file
from ekd_tf.embedders.onnx_model import PROVIDERS
from ekd_tf.embedders.onnx_model import OnnxEmbedder
from ekd_tf.embedders.saved_model import SavedModelEmbedder
from ekd_tf.embedders.tflite_model import TFLiteEmbedder
from ekd_tf.embedders.torch_file import TorchEmbedder
from ekd_tf.files.model_parts import SAVED_MODEL_FILE
from ekd_tf.models.torch_families import COLORS
from ekd_tf.models.torch_families import TORCH_FAMILIES

# Of the models people have; see README.md.
_RANGES = ((0, 255), (-1, 1), (0, 1))
_RANGE = re.compile(r"(-?\d*\.?\d+)\.\.(-?\d*\.?\d+)")


def open_embedder(spec: str) -> FrozenEmbedder:
    """Opens a trained model of any format, for inference alone.

    It is a `.keras`, `.onnx` or `.tflite` file, a SavedModel's directory, or the
    workdir of a run. `@LOW..HIGH` behind a file: the numbers that a model of float
    input takes for pixels 0 and 255, default `@0..255`; `@bgr`: it takes blue first;
    and behind an ONNX file `@cpu` or another of `PROVIDERS`: what onnxruntime runs it
    by. Or `FAMILY:FILE` and perhaps `@bgr`, a torch state_dict of one of
    `TORCH_FAMILIES`. Several joined by `+` are one, see `EnsembleEmbedder`.
    """
    parts = _joined(spec)
    if len(parts) > 1:
        return EnsembleEmbedder([open_embedder(part) for part in parts])
    if is_cache(spec):
        raise ValueError(
            f"{spec} is a cache, which holds embeddings of one data set and embeds "
            "nothing else: give the model they are of"
        )
    family, path, pixels = _split(spec)
    file, at, word = str(path).rpartition("@")
    if at and not path.exists() and pathlib.Path(file).exists():
        raise ValueError(
            f"`@{word}` behind {file} must be @LOW..HIGH, @{', @'.join(COLORS)} or, of "
            f"an .onnx file, @{', @'.join(PROVIDERS)}. Received: {spec!r}"
        )
    # Of a pipe the readers of models would wait for a writer.
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path} is no regular file")
    if (pixels or path.suffix.lower() in (".onnx", ".tflite")) and not path.exists():
        raise ValueError(f"{path} does not exist")
    if "provider" in pixels and path.suffix.lower() != ".onnx":
        raise ValueError(
            f"`@{'`, `@'.join(PROVIDERS)}` choose what runs an .onnx file. Received: "
            f"{spec!r}"
        )
    if family and "low" not in pixels:
        return TorchEmbedder(family, path, **pixels)
    embedder = _embedder_class(path)
    if embedder is not None and not family:
        return _checked(embedder(path, **pixels))
    if pixels:
        raise ValueError(
            "A Keras model takes pixels of 0 .. 255, red first, one of torch too, but "
            f"for @bgr. Received: {spec!r}"
        )
    return KerasEmbedder(path)


def split_model(spec: str) -> tuple[pathlib.Path, dict[str, Any]]:
    """Returns a model's path and the arguments behind it.

    The path is a SavedModel's directory where its graph is named. The arguments are
    `low` and `high`, `color`, and `provider`.
    """
    pixels: dict[str, Any] = {}
    path, words = spec, spec.split("@")[1:]
    while words and (arguments := _argument(words[-1])):
        word = words.pop()
        if not pixels.keys().isdisjoint(arguments):
            raise ValueError(
                f"`model` must have one of a kind behind @. Received: {spec!r}, which "
                f"has @{word} and another like it"
            )
        pixels.update(arguments)
        path = path.removesuffix(f"@{word}")
    file = pathlib.Path(path)
    return file.parent if file.name == SAVED_MODEL_FILE else file, pixels


def _argument(word):
    """Returns what a word behind @ says, empty where it is none."""
    if limits := _RANGE.fullmatch(word):
        return {"low": float(limits[1]), "high": float(limits[2])}
    if word in COLORS:
        return {"color": word}
    return {"provider": word} if word in PROVIDERS else {}


def in_other_ranges(spec: str) -> list[str]:
    """Returns a model as it would be named with each other usual range of pixels.

    Empty where its range is not what `@LOW..HIGH` says.
    """
    path, pixels = split_model(spec)
    if not path.exists() or _embedder_class(path) is None:
        return []
    own = pixels.get("low", 0), pixels.get("high", 255)
    behind = [f"@{pixels[key]}" for key in ("color", "provider") if key in pixels]
    others = [limits for limits in _RANGES if limits != own]
    return [f"{path}@{low}..{high}{''.join(behind)}" for low, high in others]


def file_of_model(spec: str) -> pathlib.Path:
    """Returns a model's file; `saved_model.pb` of a SavedModel, that of a run."""
    _, path, _ = _split(spec)
    graph = path / SAVED_MODEL_FILE
    return graph if graph.is_file() else model_file(path)


def _joined(spec):
    """Returns the models that `+` joins; a plus sign in a path joins nothing.

    Each is the longest that exists: beside runs/ekd, runs/ekd+cosine is one model.
    """
    words, parts = spec.split("+"), []
    while words:
        lengths = range(len(words), 0, -1)
        # Not `Path.exists`, to which a name that is too long is an error.
        exists = (n for n in lengths if os.path.exists(_split("+".join(words[:n]))[1]))
        count = next(exists, len(words))
        parts.append("+".join(words[:count]))
        words = words[count:]
    if not all(parts):
        raise ValueError(
            f"A model must be named, or several joined by +. Received: {spec!r}"
        )
    return parts


def _split(spec):
    """Returns the torch family or "", the path and the arguments behind it."""
    family, _, rest = spec.partition(":")
    if family not in TORCH_FAMILIES:
        family, rest = "", spec
    return family, *split_model(rest)


def _embedder_class(path):
    """Returns the class for formats whose range of pixels is open; None for others."""
    if (path / SAVED_MODEL_FILE).is_file():
        return SavedModelEmbedder
    return {".onnx": OnnxEmbedder, ".tflite": TFLiteEmbedder}.get(path.suffix.lower())


def _checked(model):
    """Returns the model once it has embedded two images: its input may promise more."""
    # In the scope of a strategy a SavedModel runs on its replicas alone.
    if tf.distribute.has_strategy():
        return model
    images = np.zeros((2, model.input_size, model.input_size, 3), np.uint8)
    expected = (2, model.embedding_dim)
    try:
        shape = np.shape(model(images))
    # Every runtime has errors of its own.
    except Exception as error:
        raise loading_error(model.name, error) from error
    if shape != expected:
        raise ValueError(
            f"{model.name} cannot be loaded: of 2 images it must make {expected}, it "
            f"makes {shape}. Export it for any number of images, or for 1"
        )
    return model
