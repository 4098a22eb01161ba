"""The arrays, bytes and numbers in the pickles verification sets come in."""

from __future__ import annotations

import numpy as np

from ekd_tf.files.restricted_pickle import RefusedPickle
from ekd_tf.files.restricted_pickle import Unfinished
from ekd_tf.files.restricted_pickle import read_pickle

_CODES = "b1 u1 i1 u2 i2 f2 u4 i4 f4 u8 i8 f8".split()
_LATIN = ("'latin1'", "'latin-1'")


def read_pair_pickle(data: bytes) -> object:
    """Returns the object a pickle of protocol 0 to 5 describes, without running it.

    Strings of Python 2 and bytearrays become `bytes`. Arrays become NumPy arrays of
    numbers or bool, arrays of objects lists.

    Raises:
        RefusedPickle: See `read_pickle`.
    """
    maker = _Maker(len(data))
    names = {
        "numpy.ndarray": None,
        "numpy.dtype": lambda code, *_: _DType(code),
        "_codecs.encode": maker.encode,
        "builtins.bytearray": maker.bytearray,
        "__builtin__.bytearray": maker.bytearray,
    }
    # numpy.core is what NumPy 1 writes, numpy._core NumPy 2.
    for core in ("numpy.core", "numpy._core"):
        names[f"{core}.multiarray._reconstruct"] = lambda *_: _Array(maker)
        names[f"{core}.multiarray.scalar"] = lambda dtype, raw: maker.array(
            (1,), dtype, raw
        )[0]
        names[f"{core}.numeric._frombuffer"] = lambda raw, dtype, shape, order: (
            maker.array(shape, dtype, raw, order)
        )
    return read_pickle(data, names, "verification set")


def _short(value):
    text = value if isinstance(value, str) else type(value).__name__
    return repr(text[:80])


class _DType(Unfinished):
    """`numpy.dtype` of a few kinds; any other is refused where it is used."""

    def __init__(self, code):
        code = code.decode("ascii") if isinstance(code, bytes) else code
        if not isinstance(code, str):
            raise RefusedPickle(f"it holds an array of type {_short(code)}")
        self.code = code
        self.order = "<"

    def finish(self, state):
        self.order = ">" if state[1] in (">", b">") else "<"
        return self


class _Array(Unfinished):
    """An array that is still to receive its state."""

    def __init__(self, maker):
        self._maker = maker

    def finish(self, state):
        # An early NumPy left the version in front out.
        shape, dtype, columns_first, raw = state[-4:]
        return self._maker.array(shape, dtype, raw, "F" if columns_first else "C")


class _Maker:
    """Makes arrays of bytes, which they share, and bytes of text.

    Args:
        budget: Bytes to make in all. Repeating a remembered text could otherwise make
            any number of them.
    """

    def __init__(self, budget):
        self._budget = budget

    def _spend(self, count):
        self._budget -= count
        if self._budget < 0:
            raise RefusedPickle("it unfolds to more than it is long")

    def encode(self, text, encoding):
        if not isinstance(text, str) or _short(encoding) not in _LATIN:
            raise RefusedPickle(f"it encodes text as {_short(encoding)}, not latin1")
        self._spend(len(text))
        return text.encode("latin1")

    def bytearray(self, content, encoding=None):
        if encoding is not None:
            return self.encode(content, encoding)
        if not isinstance(content, bytes):
            raise RefusedPickle("it makes a bytearray of something else than bytes")
        return content

    def array(self, shape, dtype, raw, order="C"):
        if not isinstance(dtype, _DType):
            raise RefusedPickle("it holds an array without type")
        shape = tuple(shape)
        if len(shape) > 2 or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise RefusedPickle(f"it holds an array of {len(shape)} dimensions")
        if dtype.code in ("O8", "O4") and isinstance(raw, list):
            if shape != (len(raw),):
                raise RefusedPickle(
                    f"it holds {len(raw):,} objects as an array of shape {shape}"
                )
            return raw
        if dtype.code not in _CODES or not isinstance(raw, bytes):
            raise RefusedPickle(f"it holds an array of type {_short(dtype.code)}")
        if np.prod(shape, dtype=object) * int(dtype.code[1:]) != len(raw):
            raise RefusedPickle(
                f"it holds an array of shape {shape} with {len(raw):,} bytes"
            )
        # bool of bytes other than 0 and 1 is undefined: read as numbers.
        code = "u1" if dtype.code == "b1" else dtype.code
        values = np.frombuffer(raw, dtype.order + code).reshape(shape, order=order)
        if dtype.code == "b1":
            self._spend(len(raw))
            return values != 0
        return values
