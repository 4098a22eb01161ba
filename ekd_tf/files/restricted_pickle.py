"""Reads pickles as data: what they name is neither imported nor run.

`pickle.load` runs whatever a file asks for, and files of faces and of weights come from
anywhere. The reader below is Python's own, of which the instructions of numbers, text,
bytes, lists, tuples and dicts and the names it is given are left: one of one's own
over `pickletools.genops` would repeat what these do. It does not recurse
and makes no object larger than the file.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from collections.abc import Callable
from typing import ClassVar

_READ = frozenset(
    "PROTO FRAME STOP MARK POP NONE NEWTRUE NEWFALSE INT LONG BININT BININT1 BININT2 "
    "LONG1 FLOAT BINFLOAT UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 STRING "
    "BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 EMPTY_LIST "
    "LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT SETITEM "
    "SETITEMS PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET GLOBAL "
    "STACK_GLOBAL REDUCE BUILD BINPERSID".split()
)
_KEYS = (str, bytes, int, float)
# What is left of a damaged file is nonsense in many ways.
_NONSENSE = (
    *(pickle.UnpicklingError, struct.error, AttributeError),
    *(ValueError, TypeError, LookupError, ArithmeticError),
)


class RefusedPickle(ValueError):
    """A pickle that is damaged, or asks for more than its reader allows."""


class Unfinished:
    """What a call may return whose state follows, which its `finish` then takes."""


def read_pickle(
    data: bytes, names: dict, content: str, load: Callable | None = None
) -> object:
    """Returns the object a pickle of protocol 0 to 5 describes.

    Strings of Python 2 and bytearrays become `bytes`. `RefusedPickle` says what else
    it asks for, or that it is damaged.

    Args:
        data: The bytes of the pickle.
        names: "module.name" -> what stands for it: a function that is called in its
            place, or anything else, which can be named and not called.
        content: What messages call the content, such as "tensor".
        load: Function of a persistent id, or None: a pickle with any is refused.
    """
    try:
        return _Reader(data, names, content, load).load()
    except RefusedPickle:
        raise
    except EOFError:
        raise RefusedPickle("it is cut") from None
    except _NONSENSE as error:
        reason = str(error)[:200]
        raise RefusedPickle(f"it is damaged or no pickle: {reason}") from None


def _instruction(word, code):
    if word in _READ:
        return pickle._Unpickler.dispatch[code]

    def refuse(reader):
        reader.refuse(f"it holds the pickle instruction {word}")

    return refuse


# The one written in Python, as joblib does: its instructions are a table.
class _Reader(pickle._Unpickler):
    dispatch: ClassVar[dict] = {
        ord(opcode.code): _instruction(opcode.name, ord(opcode.code))
        for opcode in pickletools.opcodes
    }

    def __init__(self, data, names, content, load):
        super().__init__(io.BytesIO(data), encoding="bytes")
        self._names, self._content, self._load = names, content, load

    def refuse(self, reason):
        raise RefusedPickle(f"{reason}, which no {self._content} needs")

    def find_class(self, module, name):
        word = f"{module}.{name}"
        if word not in self._names:
            self.refuse(f"it asks for {word[:160]}")
        return self._names[word]

    def persistent_load(self, pid):
        if self._load is None:
            self.refuse("it refers to another file")
        return self._load(pid)

    def load_bytearray8(self):
        # Python's takes the memory before it looks whether there are so many.
        self.load_binbytes8()

    def load_build(self):
        state = self.stack.pop()
        if not isinstance(self.stack[-1], Unfinished):
            raise RefusedPickle("it sets the state of what has none")
        self.stack[-1].finish(state)

    def load_setitem(self):
        self._check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self):
        self._check_keys(self.stack[::2])
        super().load_setitems()

    def _check_keys(self, keys):
        # The hash of a tuple in tuples recurses.
        for key in keys:
            if not isinstance(key, _KEYS):
                raise RefusedPickle(f"it holds a dict of {type(key).__name__} keys")

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
