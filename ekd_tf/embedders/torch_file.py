"""Teachers from torch state_dicts, in the files projects publish them in."""

from __future__ import annotations

import math
import os
import pathlib
import zipfile
from collections.abc import Mapping

import numpy as np
from absl import logging

from ekd_tf.embedders.frozen import content_hash
from ekd_tf.embedders.frozen import loading_error
from ekd_tf.embedders.keras_model import KerasEmbedder
from ekd_tf.files.restricted_pickle import RefusedPickle
from ekd_tf.files.restricted_pickle import Unfinished
from ekd_tf.files.restricted_pickle import read_pickle
from ekd_tf.models.torch_families import build_from_torch

# Where checkpoints keep the network besides the optimizer and the epoch: the usual
# word, and insightface's.
_WRAPPERS = ("state_dict", "state_dict_backbone")
_PARALLEL = "module."
_DTYPES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


class TorchEmbedder(KerasEmbedder):
    """Embeds by the Keras backbone that a torch state_dict belongs to.

    Arguments as of `build_from_torch` and `read_state_dict`; weights that are not
    exactly those of the family are refused.
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

    `path` is a file of `torch.save` since torch 1.6, of any suffix, or a `.npz` file of
    the arrays; torch need not be installed. A state_dict below "state_dict" or
    "state_dict_backbone" is taken out, and the prefix "module." of DataParallel left
    out; both are logged. Returns torch key -> array, half precision as float32.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                content = dict(file)
        else:
            content = _read_torch(path)
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


def _describe(content):
    if not isinstance(content, Mapping):
        return type(content).__name__
    kinds = [f"{key!r}: {type(value).__name__}" for key, value in content.items()]
    more = f" and {len(kinds) - 5} more" if len(kinds) > 5 else ""
    return f"{{{', '.join(kinds[:5])}}}{more}"


def _read_torch(path):
    """Returns the object a file of `torch.save` holds, tensors as NumPy arrays.

    Such a file is a zip archive, not compressed: a pickle that describes the tensors,
    and one member with the bytes of each. The pickle is read by `restricted_pickle`.
    Tensors of bfloat16, which NumPy lacks, become float32.
    """
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"it is no file of torch.save since torch 1.6 ({error}). Save an older one "
            "again with a newer torch, or its arrays as .npz"
        ) from None
    try:
        with archive:
            return _Archive(archive, os.path.getsize(path)).read()
    except RefusedPickle:
        raise
    # What is left of a damaged archive is nonsense in many ways.
    except Exception as error:
        raise ValueError(f"it is damaged: {error!r}") from None


class _DType(str):
    """A kind of numbers; nothing that could be called or changed."""

    __slots__ = ()


class _Dict(dict, Unfinished):
    """An OrderedDict; what torch keeps beside its items is left out."""

    def finish(self, state):
        return self


class _Archive:
    def __init__(self, archive, size):
        self._archive = archive
        names = [n for n in archive.namelist() if n.endswith("/data.pkl")]
        if len(names) != 1:
            raise RefusedPickle("the zip archive holds no data.pkl: it is not torch's")
        self._root = names[0][: -len("data.pkl")]
        # Members of a forged archive may overlap.
        self._unread = size
        # Tensors may share numbers, which are copied here; bfloat16 doubles.
        self._budget = 4 * size
        self._storages = {}

    def read(self):
        if self._root + "byteorder" in self._archive.namelist():
            if self._member("byteorder") != b"little":
                raise RefusedPickle("it is from a machine of big-endian byte order")
        names = {f"torch.{word}": _DType(code) for word, code in _DTYPES.items()}
        names["collections.OrderedDict"] = lambda: _Dict()
        names["torch._utils._rebuild_tensor_v2"] = self._tensor
        names["torch._utils._rebuild_parameter"] = lambda tensor, *_: tensor
        return read_pickle(self._member("data.pkl"), names, "tensor", self._storage)

    def _member(self, name):
        info = self._archive.getinfo(self._root + name)
        # Torch stores; what is compressed could unfold to any size.
        if info.compress_type != zipfile.ZIP_STORED:
            raise RefusedPickle(
                f"its member {name!r} is compressed, which torch never does"
            )
        self._unread -= info.file_size
        if self._unread < 0:
            raise RefusedPickle("it unfolds to more than it is long")
        return self._archive.read(info)

    def _storage(self, identity):
        _, dtype, key, _, count = identity
        # The hash of a tuple in tuples recurses.
        if not isinstance(dtype, _DType) or not isinstance(key, str):
            raise RefusedPickle("it is damaged: a tensor without type")
        if (dtype, key) in self._storages:
            return self._storages[dtype, key]
        raw = self._member(f"data/{key}")
        if dtype == "bfloat16":
            # The upper half of a float32.
            values = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
        else:
            values = np.frombuffer(raw, np.dtype(str(dtype)).newbyteorder("<"))
        if len(values) != count:
            raise RefusedPickle(
                f"its member 'data/{key}' holds {len(values)} of {count} numbers"
            )
        self._storages[dtype, key] = values
        return values

    def _tensor(self, storage, offset, shape, strides, *_):
        """Returns the array that a tensor is of its storage."""
        if not isinstance(storage, np.ndarray) or len(shape) != len(strides):
            raise RefusedPickle("it is damaged: a tensor without numbers")
        if not all(isinstance(n, int) for n in (offset, *shape, *strides)):
            raise RefusedPickle("it is damaged: a tensor without sizes")
        count = math.prod(shape)
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides))
        if min(offset, *shape, *strides, 0) < 0 or count and last >= len(storage):
            raise RefusedPickle("it is damaged: a tensor beyond its numbers")
        self._budget -= count * storage.itemsize
        if self._budget < 0:
            raise RefusedPickle("it unfolds to more than it is long")
        view = np.lib.stride_tricks.as_strided(
            storage[offset:] if count else storage[:0],
            shape,
            [step * storage.itemsize for step in strides],
        )
        return view.copy()
