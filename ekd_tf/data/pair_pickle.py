"""Reads the pickles verification sets come in without unpickling them.

`pickle.load` runs whatever a file asks for, and these files come from file-sharing
mirrors. The reader below is a machine of its own: it knows the few instructions such a
file consists of, builds numbers, text, bytes, lists and tuples itself, takes six names
for what they mean in such a file without importing or calling anything, and refuses the
rest. It does not recurse, makes no object larger than the file, and stops after a
number of instructions no such file needs.
"""

from __future__ import annotations

import codecs
import struct

import numpy as np

# numpy.core is what NumPy 1 writes, numpy._core NumPy 2.
_ALLOWED = {
    **{
        f"{core}.{name}": name.rpartition(".")[2]
        for core in ("numpy.core", "numpy._core")
        for name in ("multiarray._reconstruct", "multiarray.scalar")
        + ("numeric._frombuffer",)
    },
    "numpy.ndarray": "ndarray",
    "numpy.dtype": "dtype",
    "_codecs.encode": "encode",
}
_ITEM_SIZES = {"b1": 1, "u1": 1, "i1": 1, "i4": 4, "i8": 8}
# An image takes about ten instructions: 200,000 pairs.
_MAX_STEPS = 4_000_000


class RefusedPickle(ValueError):
    """A file that is no verification set, or asks for more than one needs."""


class _Name:
    """One of the allowed names; not the object Python knows by it."""

    def __init__(self, word):
        self.word = word


class _DType:
    """`numpy.dtype` of one of a few kinds."""

    def __init__(self, code):
        if code not in _ITEM_SIZES:
            raise RefusedPickle(f"it holds an array of type {_short(code)}")
        self.code = code
        self.order = "<"


class _Array:
    """An array that is still to receive its state."""

    value = None


class _Mark:
    """The bottom of a list or tuple on the stack."""


def read_pickle(data: bytes):
    """Returns the object a pickle of protocol 0 to 5 describes.

    Strings of Python 2 become `bytes`. Arrays become NumPy arrays of 8-bit to 64-bit
    integers or bool.

    Args:
        data: The bytes of the file.

    Raises:
        RefusedPickle: The pickle names anything but the array constructors, holds
            another instruction, or is damaged; the message says which and where.
    """
    return _Machine(data).run()


def _text(value):
    return value.decode("ascii") if isinstance(value, bytes) else value


def _short(value):
    text = value if isinstance(value, str) else type(value).__name__
    return repr(text[:80])


class _Machine:
    def __init__(self, data):
        self._data = memoryview(data)
        self._at = 0
        self._stack = []
        self._memo = {}
        # Repeating a memoised text could otherwise make any amount of bytes.
        self._budget = len(data)

    def run(self):
        for _ in range(_MAX_STEPS):
            start = self._at
            try:
                code = bytes(self._take(1))
                if code == b".":
                    return self._pop()
                step = _STEPS.get(code)
                if step is None:
                    raise RefusedPickle(
                        f"it holds the pickle instruction {code!r}, which no "
                        "verification set needs"
                    )
                step(self)
            except RefusedPickle as error:
                raise RefusedPickle(f"{error} (byte {start})") from None
            # What is left of a damaged file is nonsense in a hundred ways.
            except (ValueError, TypeError, LookupError, struct.error) as error:
                raise RefusedPickle(
                    f"it is damaged or no pickle: {error} (byte {start})"
                ) from None
        raise RefusedPickle(f"it has more than {_MAX_STEPS:,} instructions")

    # --- bytes of the file ---

    def _take(self, count):
        if not 0 <= count <= len(self._data) - self._at:
            raise RefusedPickle(
                f"it is cut: {count:,} bytes are announced and "
                f"{len(self._data) - self._at:,} left"
            )
        self._at += count
        return self._data[self._at - count : self._at]

    def _number(self, layout):
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _line(self):
        # Protocol 0 ends arguments by a newline.
        for stop in range(self._at, len(self._data), 4096):
            found = bytes(self._data[stop : stop + 4096]).find(b"\n")
            if found >= 0:
                return bytes(self._take(stop + found + 1 - self._at))[:-1]
        raise RefusedPickle("it is cut inside a line")

    # --- stack and memo ---

    def _pop(self):
        value = self._stack.pop()
        if isinstance(value, _Mark):
            raise RefusedPickle("it is damaged: a mark where a value is due")
        return value

    def _push(self, value):
        self._stack.append(value)

    def _pop_mark(self):
        for k in range(len(self._stack) - 1, -1, -1):
            if isinstance(self._stack[k], _Mark):
                values = self._stack[k + 1 :]
                del self._stack[k:]
                return values
        raise RefusedPickle("it is damaged: the end of a list without its start")

    def _tuple(self, count):
        values = [self._pop() for _ in range(count)]
        self._push(tuple(values[::-1]))

    def _extend(self, values):
        target = self._stack[-1]
        if not isinstance(target, list):
            raise RefusedPickle("it is damaged: items for what is no list")
        target += values

    def _put(self, key):
        self._memo[key] = self._stack[-1]

    def _get(self, key):
        value = self._memo[key]
        finished = isinstance(value, _Array) and value.value is not None
        self._push(value.value if finished else value)

    # --- names, and what they stand for ---

    def _name(self, module, name):
        if isinstance(module, str) and isinstance(name, str):
            word = _ALLOWED.get(f"{module}.{name}")
            if word:
                self._push(_Name(word))
                return
        raise RefusedPickle(
            f"it asks for {str(module)[:80]}.{str(name)[:80]}, which no verification "
            "set needs"
        )

    def _reduce(self):
        arguments = self._pop()
        callee = self._pop()
        if not isinstance(callee, _Name) or not isinstance(arguments, tuple):
            raise RefusedPickle("it is damaged: a call of what cannot be called")
        make = {
            "encode": self._encode,
            "dtype": lambda code, *_: _DType(_text(code)),
            "_reconstruct": lambda *_: _Array(),
            "scalar": self._scalar,
            "_frombuffer": lambda raw, dtype, shape, order: self._array(
                shape, dtype, raw
            ),
        }.get(callee.word)
        if make is None:
            raise RefusedPickle(f"it calls {callee.word}, which is only to be named")
        self._push(make(*arguments))

    def _encode(self, text, encoding):
        if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
            raise RefusedPickle(f"it encodes text as {_short(encoding)}, not latin1")
        self._spend(len(text))
        return text.encode("latin1")

    def _spend(self, count):
        self._budget -= count
        if self._budget < 0:
            raise RefusedPickle("it unfolds to more than it is long")

    def _scalar(self, dtype, raw):
        return self._array((1,), dtype, raw)[0]

    def _array(self, shape, dtype, raw):
        if not isinstance(dtype, _DType) or not isinstance(raw, (bytes, bytearray)):
            raise RefusedPickle("it holds an array without bytes or type")
        shape = tuple(int(n) for n in shape)
        count = 1
        for n in shape:
            count *= n
        if len(shape) > 2 or count * _ITEM_SIZES[dtype.code] != len(raw):
            raise RefusedPickle(
                f"it holds an array of shape {shape} with {len(raw):,} bytes"
            )
        self._spend(len(raw))
        # bool of bytes other than 0 and 1 is undefined: read as numbers.
        code = "u1" if dtype.code == "b1" else dtype.code
        values = np.frombuffer(bytes(raw), dtype.order + code).reshape(shape)
        return values != 0 if dtype.code == "b1" else values

    def _build(self):
        state = self._pop()
        target = self._stack[-1]
        if isinstance(target, _DType):
            target.order = ">" if _text(state[1]) == ">" else "<"
        elif isinstance(target, _Array):
            # An early NumPy left the version in front out.
            shape, dtype, _, raw = state[-4:]
            target.value = self._array(shape, dtype, raw)
            self._stack[-1] = target.value
        else:
            raise RefusedPickle("it sets the state of what has none")


def _string(line):
    """Returns the bytes of a Python 2 string as repr wrote it."""
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in b"\"'":
        raise RefusedPickle("it is damaged: a string without quotes")
    return codecs.escape_decode(line[1:-1])[0]


def _integer(line):
    if line in (b"00", b"01"):
        return line == b"01"
    if len(line) > 21:
        raise RefusedPickle(f"it holds a number of {len(line)} digits")
    return int(line.rstrip(b"L"))


def _long(machine, size):
    if size > 8:
        raise RefusedPickle(f"it holds a number of {size} bytes")
    machine._push(int.from_bytes(machine._take(size), "little", signed=True))


def _pushes(make):
    """Makes an instruction of a function of the machine that returns a value."""
    return lambda machine: machine._push(make(machine))


def _sized(layout, convert):
    """Makes an instruction that pushes `convert` of as many bytes as a number says."""
    return _pushes(lambda machine: convert(machine._take(machine._number(layout))))


def _utf8(data):
    return str(data, "utf-8", "surrogatepass")


def _of_mark(kind):
    return _pushes(lambda machine: kind(machine._pop_mark()))


def _global(machine):
    module = machine._line().decode("ascii")
    machine._name(module, machine._line().decode("ascii"))


def _stack_global(machine):
    name = machine._pop()
    machine._name(machine._pop(), name)


# The instructions by their bytes; see the standard library's pickletools.
_STEPS = {
    b"\x80": lambda m: m._take(1),  # PROTO
    b"\x95": lambda m: m._number("<Q"),  # FRAME
    b"(": _pushes(lambda m: _Mark()),
    b"0": lambda m: m._stack.pop(),
    b"N": _pushes(lambda m: None),
    b"\x88": _pushes(lambda m: True),
    b"\x89": _pushes(lambda m: False),
    # Numbers.
    b"I": _pushes(lambda m: _integer(m._line())),
    b"L": _pushes(lambda m: _integer(m._line())),
    b"J": _pushes(lambda m: m._number("<i")),
    b"K": _pushes(lambda m: m._number("<B")),
    b"M": _pushes(lambda m: m._number("<H")),
    b"\x8a": lambda m: _long(m, m._number("<B")),
    b"\x8b": lambda m: _long(m, m._number("<i")),
    # Strings of Python 2, text, bytes.
    b"S": _pushes(lambda m: _string(m._line())),
    b"T": _sized("<i", bytes),
    b"U": _sized("<B", bytes),
    b"V": _pushes(lambda m: m._line().decode("raw-unicode-escape")),
    b"X": _sized("<I", _utf8),
    b"\x8c": _sized("<B", _utf8),
    b"\x8d": _sized("<Q", _utf8),
    b"B": _sized("<I", bytes),
    b"C": _sized("<B", bytes),
    b"\x8e": _sized("<Q", bytes),
    b"\x96": _sized("<Q", bytes),
    # Lists and tuples.
    b"]": _pushes(lambda m: []),
    b"l": _of_mark(list),
    b"a": lambda m: m._extend([m._pop()]),
    b"e": lambda m: m._extend(m._pop_mark()),
    b")": _pushes(lambda m: ()),
    b"t": _of_mark(tuple),
    b"\x85": lambda m: m._tuple(1),
    b"\x86": lambda m: m._tuple(2),
    b"\x87": lambda m: m._tuple(3),
    # Memo.
    b"p": lambda m: m._put(int(m._line())),
    b"q": lambda m: m._put(m._number("<B")),
    b"r": lambda m: m._put(m._number("<I")),
    b"\x94": lambda m: m._put(len(m._memo)),
    b"g": lambda m: m._get(int(m._line())),
    b"h": lambda m: m._get(m._number("<B")),
    b"j": lambda m: m._get(m._number("<I")),
    # Names, calls, state.
    b"c": _global,
    b"\x93": _stack_global,
    b"R": lambda m: m._reduce(),
    b"b": lambda m: m._build(),
}
