"""Reads the files `torch.save` writes, without torch and without running them.

Such a file is a zip archive, not compressed: a pickle that describes the tensors, and
one member with the bytes of each. A pickle can ask for anything. This one is first
looked through without being run, and refused if it holds an instruction that tensors in
dicts, lists and tuples do not need; run, it finds the few names below and no others,
and those stand for functions of this file.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import pickletools
import zipfile

import numpy as np

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
_INSTRUCTIONS = frozenset(
    "PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT "
    "BINUNICODE EMPTY_DICT SETITEM SETITEMS EMPTY_LIST APPEND APPENDS EMPTY_TUPLE "
    "TUPLE TUPLE1 TUPLE2 TUPLE3 BINPUT LONG_BINPUT BINGET LONG_BINGET GLOBAL REDUCE "
    "BUILD BINPERSID".split()
)
# A network of a thousand layers takes a megabyte.
_MAX_PICKLE = 64 << 20


def read_torch_zip(path):
    """Returns the object a file of `torch.save` holds, tensors as NumPy arrays.

    Args:
        path: The file.

    Returns:
        What was saved: for a state_dict, a dict of key -> array. Tensors of bfloat16,
        which NumPy lacks, become float32.

    Raises:
        ValueError: The file is none of `torch.save` since torch 1.6, is damaged, or
            asks for more than tensors, numbers, text, dicts, lists and tuples; the
            message gives the reason, not the path.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _Archive(archive).read()
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"it is no file of torch.save since torch 1.6 ({error})"
        ) from None
    except pickle.UnpicklingError as error:
        raise ValueError(str(error)) from None
    # What is left of a damaged file is nonsense in a dozen ways.
    except (LookupError, TypeError, AttributeError, EOFError) as error:
        raise ValueError(f"it is damaged: {error!r}") from None


class _Archive:
    def __init__(self, archive):
        self._archive = archive
        names = [n for n in archive.namelist() if n.endswith("/data.pkl")]
        if len(names) != 1:
            raise ValueError("the zip archive holds no data.pkl: it is not torch's")
        self._root = names[0][: -len("data.pkl")]

    def read(self):
        if self._root + "byteorder" in self._archive.namelist():
            if self._member("byteorder") != b"little":
                raise ValueError("it is from a machine of big-endian byte order")
        content = self._member("data.pkl")
        _check_instructions(content)
        size = sum(info.file_size for info in self._archive.infolist())
        return _Unpickler(content, self._storage, size).load()

    def _member(self, name):
        info = self._archive.getinfo(self._root + name)
        # Torch stores; what is compressed could unfold to any size.
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(
                f"its member {name!r} is compressed, which torch never does"
            )
        return self._archive.read(info)

    def _storage(self, identity):
        kind, dtype, key, _, count = identity
        if kind != "storage" or not isinstance(dtype, _DType):
            raise ValueError("it is damaged: a tensor without type")
        raw = self._member(f"data/{key}")
        if dtype == "bfloat16":
            # The upper half of a float32.
            values = np.frombuffer(raw, "<u2").astype("<u4") << 16
            values = values.view("<f4")
        else:
            values = np.frombuffer(raw, np.dtype(str(dtype)).newbyteorder("<"))
        if len(values) != count:
            raise ValueError(
                f"its member 'data/{key}' holds {len(values)} of {count} numbers"
            )
        return values


class _DType(str):
    """A kind of numbers; nothing that could be called or changed."""

    __slots__ = ()


def _instructions(content):
    try:
        yield from pickletools.genops(content)
    except ValueError as error:
        raise ValueError(f"it is damaged: {error}") from None


def _check_instructions(content):
    if len(content) > _MAX_PICKLE:
        raise ValueError(f"its data.pkl is longer than {_MAX_PICKLE >> 20} MiB")
    for instruction, argument, _ in _instructions(content):
        if instruction.name not in _INSTRUCTIONS:
            raise ValueError(
                f"it holds the pickle instruction {instruction.name}, which no tensor "
                "needs"
            )
        # The unpickler makes room up to the number it is told.
        if instruction.name == "LONG_BINPUT" and argument > len(content):
            raise ValueError("it is damaged: a number for a value beyond all values")


class _Unpickler(pickle.Unpickler):
    def __init__(self, content, load_storage, size):
        super().__init__(io.BytesIO(content))
        self.persistent_load = load_storage
        # Tensors may share numbers, which are copied here; bfloat16 doubles.
        self._budget = 4 * size

    def find_class(self, module, name):
        if module == "torch" and name in _DTYPES:
            return _DType(_DTYPES[name])
        found = {
            "collections.OrderedDict": collections.OrderedDict,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
        }.get(f"{module}.{name}")
        if found is None:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which no tensor needs"
            )
        return found

    def _tensor(self, storage, offset, shape, strides, *_):
        """Returns the array that a tensor is of its storage."""
        if not isinstance(storage, np.ndarray) or len(shape) != len(strides):
            raise ValueError("it is damaged: a tensor without numbers")
        count = math.prod(shape)
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides))
        if min(offset, *shape, *strides, 0) < 0 or count and last >= len(storage):
            raise ValueError("it is damaged: a tensor beyond its numbers")
        self._budget -= count * storage.itemsize
        if self._budget < 0:
            raise ValueError("it unfolds to more than it is long")
        view = np.lib.stride_tricks.as_strided(
            storage[offset:] if count else storage[:0],
            shape,
            [step * storage.itemsize for step in strides],
        )
        return view.copy()
