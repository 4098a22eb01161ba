"""Reads pickles as data: what they name is neither imported nor run.

`pickle.load` runs whatever a file asks for, and files of faces and of weights come from
anywhere. The reader below takes the instructions of numbers, text, bytes, lists, tuples
and dicts and the names it is given, and refuses the rest. It does not recurse, makes no
object larger than the file, and stops after more instructions than such files need.
"""

from __future__ import annotations

import codecs
import io
import pickletools
from collections.abc import Callable

# An image takes about ten instructions: 200,000 pairs.
_MAX_STEPS = 4_000_000
_MARK = object()
_PUSHED = frozenset(
    "INT LONG BININT BININT1 BININT2 LONG1 LONG4 FLOAT BINFLOAT UNICODE BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 STRING BINBYTES SHORT_BINBYTES BINBYTES8".split()
)
_CONSTANTS = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
    "MARK": _MARK,
}


class RefusedPickle(ValueError):
    """A pickle that is damaged, or asks for more than its reader allows."""


class Unfinished:
    """What a call may return whose state follows in the pickle.

    Attributes:
        value: What stands for it once its state is known, or None.
    """

    value = None

    def finish(self, state: object) -> object:
        """Returns what the object is with this state."""
        raise TypeError(f"{type(self).__name__} must define `finish`.")


class _Name:
    """One of the allowed names; not the object Python knows by it."""

    def __init__(self, word, make):
        self.word, self.make = word, make


def read_pickle(
    data: bytes, names: dict, content: str, load: Callable | None = None
) -> object:
    """Returns the object a pickle of protocol 0 to 5 describes.

    Strings of Python 2 and bytearrays become `bytes`.

    Args:
        data: The bytes of the pickle.
        names: "module.name" -> what stands for it: a function that is called in its
            place, or anything else, to be named and not called.
        content: What messages call the content, such as "tensor".
        load: Function that returns the object of a persistent id, or None: a pickle
            with any is refused.

    Raises:
        RefusedPickle: The pickle asks for another name, holds another instruction, or
            is damaged; the message says which and where.
    """
    return _Machine(data, names, content, load).run()


class _Machine:
    def __init__(self, data, names, content, load):
        self._file = io.BytesIO(data)
        self._names, self._content, self._load = names, content, load
        self._stack = []
        self._memo = {}

    def run(self):
        for _ in range(_MAX_STEPS):
            start = self._file.tell()
            try:
                word, argument = self._next()
                if word == "STOP":
                    return self._pop()
                self._step(word, argument)
            except RefusedPickle as error:
                raise RefusedPickle(f"{error} (byte {start:,})") from None
            # What is left of a damaged file is nonsense in a hundred ways.
            except (ValueError, TypeError, LookupError, ArithmeticError) as error:
                raise RefusedPickle(
                    f"it is damaged or no pickle: {str(error)[:200]} (byte {start:,})"
                ) from None
        raise RefusedPickle(f"it has more than {_MAX_STEPS:,} instructions")

    def _next(self):
        """Reads an instruction and its argument as `pickletools.genops` does."""
        code = self._file.read(1)
        if not code:
            raise RefusedPickle("it is cut")
        opcode = pickletools.code2op.get(code.decode("latin-1"))
        word = opcode.name if opcode else f"{code!r}"
        if word == "STRING":
            # Its reader takes ASCII alone on some versions of Python.
            line = pickletools.read_stringnl(self._file, decode=False)
            return word, codecs.escape_decode(line)[0]
        if word in ("BINSTRING", "SHORT_BINSTRING"):
            return "STRING", opcode.arg.reader(self._file).encode("latin-1")
        if opcode is None or opcode.arg is None:
            return word, None
        return word, opcode.arg.reader(self._file)

    def _step(self, word, argument):
        if word in _PUSHED:
            if isinstance(argument, int) and argument.bit_length() > 64:
                raise RefusedPickle(
                    f"it holds a number of {argument.bit_length()} bits"
                )
            self._stack.append(argument)
        elif word in _CONSTANTS:
            self._stack.append(_CONSTANTS[word])
        elif word in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            key = len(self._memo) if argument is None else argument
            self._memo[key] = self._stack[-1]
        elif word in ("BINGET", "LONG_BINGET", "GET"):
            value = self._memo[argument]
            finished = isinstance(value, Unfinished) and value.value is not None
            self._stack.append(value.value if finished else value)
        elif word in ("PROTO", "FRAME"):
            pass
        elif word in _INSTRUCTIONS:
            _INSTRUCTIONS[word](self, argument)
        else:
            raise RefusedPickle(
                f"it holds the pickle instruction {word}, which no {self._content} "
                "needs"
            )

    def _pop(self):
        value = self._stack.pop()
        if value is _MARK:
            raise RefusedPickle("it is damaged: a mark where a value is due")
        return value

    def _pop_mark(self):
        for k in range(len(self._stack) - 1, -1, -1):
            if self._stack[k] is _MARK:
                values = self._stack[k + 1 :]
                del self._stack[k:]
                return values
        raise RefusedPickle("it is damaged: the end of a list without its start")

    def _tuple(self, count):
        self._stack.append(tuple([self._pop() for _ in range(count)][::-1]))

    def _extend(self, values):
        if not isinstance(self._stack[-1], list):
            raise RefusedPickle("it is damaged: items for what is no list")
        self._stack[-1].extend(values)

    def _update(self, values):
        target = self._stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise RefusedPickle("it is damaged: items for what is no dict")
        for key, value in zip(values[::2], values[1::2]):
            # The hash of a tuple in tuples recurses.
            if not isinstance(key, (str, bytes, int, float)):
                raise RefusedPickle(f"it holds a dict of {type(key).__name__} keys")
            target[key] = value

    def _dict(self):
        values = self._pop_mark()
        self._stack.append({})
        self._update(values)

    def _set_item(self):
        value, key = self._pop(), self._pop()
        self._update([key, value])

    def _name(self, module, name):
        if not isinstance(module, str) or not isinstance(name, str):
            raise RefusedPickle("it is damaged: a name that is no text")
        word = f"{module}.{name}"
        if word not in self._names:
            raise RefusedPickle(
                f"it asks for {word[:160]}, which no {self._content} needs"
            )
        self._stack.append(_Name(word, self._names[word]))

    def _stack_name(self):
        name, module = self._pop(), self._pop()
        self._name(module, name)

    def _call(self):
        arguments, callee = self._pop(), self._pop()
        if not isinstance(callee, _Name) or not isinstance(arguments, tuple):
            raise RefusedPickle("it is damaged: a call of what cannot be called")
        if not callable(callee.make):
            raise RefusedPickle(f"it calls {callee.word}, which is only to be named")
        self._stack.append(callee.make(*arguments))

    def _build(self):
        state = self._pop()
        target = self._pop()
        if not isinstance(target, Unfinished):
            raise RefusedPickle("it sets the state of what has none")
        target.value = target.finish(state)
        self._stack.append(target.value)

    def _persistent(self):
        if self._load is None:
            raise RefusedPickle(
                f"it refers to another file, which no {self._content} needs"
            )
        self._stack.append(self._load(self._named(self._pop())))

    @staticmethod
    def _named(identity):
        """Returns a persistent id with what its names stand for."""
        if not isinstance(identity, tuple):
            return identity
        return tuple(v.make if isinstance(v, _Name) else v for v in identity)


# What they do to the stack; see the standard library's pickletools.
_INSTRUCTIONS = {
    "POP": lambda m, _: m._stack.pop(),
    "BYTEARRAY8": lambda m, data: m._stack.append(bytes(data)),
    "EMPTY_LIST": lambda m, _: m._stack.append([]),
    "LIST": lambda m, _: m._stack.append(m._pop_mark()),
    "APPEND": lambda m, _: m._extend([m._pop()]),
    "APPENDS": lambda m, _: m._extend(m._pop_mark()),
    "TUPLE": lambda m, _: m._stack.append(tuple(m._pop_mark())),
    "TUPLE1": lambda m, _: m._tuple(1),
    "TUPLE2": lambda m, _: m._tuple(2),
    "TUPLE3": lambda m, _: m._tuple(3),
    "EMPTY_DICT": lambda m, _: m._stack.append({}),
    "DICT": lambda m, _: m._dict(),
    "SETITEM": lambda m, _: m._set_item(),
    "SETITEMS": lambda m, _: m._update(m._pop_mark()),
    "GLOBAL": lambda m, words: m._name(*words.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m._stack_name(),
    "REDUCE": lambda m, _: m._call(),
    "BUILD": lambda m, _: m._build(),
    "BINPERSID": lambda m, _: m._persistent(),
}
