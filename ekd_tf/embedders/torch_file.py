"""Teachers from torch state_dicts, in the files projects publish them in."""

from __future__ import annotations

import os
import pathlib
from typing import Mapping

import numpy as np
from absl import logging

from ekd_tf.embedders.frozen import content_hash
from ekd_tf.embedders.frozen import loading_error
from ekd_tf.embedders.keras_model import KerasEmbedder
from ekd_tf.embedders.torch_zip import read_torch_zip
from ekd_tf.models.torch_families import build_from_torch

# Where checkpoints keep the network besides the optimizer and the epoch: the usual
# word, and insightface's.
_WRAPPERS = ("state_dict", "state_dict_backbone")
_PARALLEL = "module."


class TorchEmbedder(KerasEmbedder):
    """Embeds by the Keras backbone that a torch state_dict belongs to.

    Args:
        family: One of `TORCH_FAMILIES`.
        path: See `read_state_dict`.
        color: See `build_from_torch`.

    Raises:
        ValueError: The file cannot be read, or its weights are not exactly those of
            the family.
    """

    def __init__(self, family: str, path: str | os.PathLike, color: str = "rgb"):
        arrays = read_state_dict(path)
        try:
            model = build_from_torch(family, arrays, color)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        self._take(path, model, content_hash(path, family, color))


def read_state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the arrays of a torch state_dict; runs nothing that a file asks for.

    Torch need not be installed. A state_dict below "state_dict" or
    "state_dict_backbone" is taken out, and the prefix "module." of DataParallel left
    out; both are logged.

    Args:
        path: A file of `torch.save` since torch 1.6, of any suffix, or a `.npz` file of
            the arrays.

    Returns:
        Torch key -> array, half precision as float32.

    Raises:
        ValueError: The file does not exist, cannot be read, asks for more than tensors
            or holds no state_dict.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist")
    try:
        content = _read_npz(path) if path.suffix == ".npz" else read_torch_zip(path)
    # torch, pickle and zipfile raise a dozen kinds: the file is no good.
    except Exception as error:
        raise loading_error(path, error) from error
    for word in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(word), Mapping):
            logging.info("%s: taking the state_dict under %r.", path, word)
            content = content[word]
    items = content.items() if isinstance(content, Mapping) else ()
    if not items or not all(
        isinstance(key, str) and isinstance(value, np.ndarray) for key, value in items
    ):
        raise ValueError(
            f"{path} must hold a state_dict, torch keys and tensors. Received: "
            f"{_describe(content)}"
        )
    if all(key.startswith(_PARALLEL) for key in content):
        logging.info("%s: leaving out the prefix %r of every key.", path, _PARALLEL)
        content = {key[len(_PARALLEL) :]: value for key, value in content.items()}
    return {
        key: value.astype(np.float32) if value.dtype == np.float16 else value
        for key, value in content.items()
    }


def _read_npz(path):
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def _describe(content):
    if not isinstance(content, Mapping):
        return type(content).__name__
    kinds = [f"{key!r}: {type(value).__name__}" for key, value in content.items()]
    more = f" and {len(kinds) - 5} more" if len(kinds) > 5 else ""
    return f"{{{', '.join(kinds[:5])}}}{more}"
