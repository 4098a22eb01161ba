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

    value: object = None

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
    file, machine = io.BytesIO(data), _Machine(names, content, load)
    for _ in range(_MAX_STEPS):
        start = file.tell()
        try:
            word, argument = _next(file)
            if word == "STOP":
                return machine.pop()
            machine.step(word, argument)
        except RefusedPickle as error:
            raise RefusedPickle(f"{error} (byte {start:,})") from None
        # What is left of a damaged file is nonsense in a hundred ways.
        except (ValueError, TypeError, LookupError, ArithmeticError) as error:
            raise RefusedPickle(
                f"it is damaged or no pickle: {str(error)[:200]} (byte {start:,})"
            ) from None
    raise RefusedPickle(f"it has more than {_MAX_STEPS:,} instructions")


def _next(file):
    """Reads an instruction and its argument as `pickletools.genops` does."""
    code = file.read(1)
    if not code:
        raise RefusedPickle("it is cut")
    opcode = pickletools.code2op.get(code.decode("latin-1"))
    if opcode is None:
        return f"{code!r}", None
    if opcode.name == "STRING":
        # Its reader takes ASCII alone on some versions of Python.
        line = pickletools.read_stringnl(file, decode=False)
        return "STRING", codecs.escape_decode(line)[0]
    argument = opcode.arg and opcode.arg.reader(file)
    if opcode.name in ("BINSTRING", "SHORT_BINSTRING"):
        return "STRING", argument.encode("latin-1")
    return opcode.name, argument


class _Machine:
    """The stack and the memo; see the standard library's pickletools."""

    def __init__(self, names, content, load):
        self._names, self._content, self._load = names, content, load
        self._stack, self._memo = [], {}

    def pop(self):
        """Takes the value on top of the stack."""
        value = self._stack.pop()
        if value is _MARK:
            raise RefusedPickle("it is damaged: a mark where a value is due")
        return value

    def step(self, word, argument):
        """Does what one instruction says."""
        push = self._stack.append
        if word in _PUSHED:
            if isinstance(argument, int) and argument.bit_length() > 64:
                bits = argument.bit_length()
                raise RefusedPickle(f"it holds a number of {bits} bits")
            push(argument)
        elif word in _CONSTANTS:
            push(_CONSTANTS[word])
        elif word in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            key = len(self._memo) if argument is None else argument
            self._memo[key] = self._stack[-1]
        elif word in ("BINGET", "LONG_BINGET", "GET"):
            value = self._memo[argument]
            finished = isinstance(value, Unfinished) and value.value is not None
            push(value.value if finished else value)
        elif word in ("PROTO", "FRAME"):
            pass
        elif word == "POP":
            self._stack.pop()
        elif word == "BYTEARRAY8":
            push(bytes(argument))
        elif word == "EMPTY_LIST":
            push([])
        elif word == "LIST":
            push(self._pop_mark())
        elif word in ("APPEND", "APPENDS"):
            values = [self.pop()] if word == "APPEND" else self._pop_mark()
            if not isinstance(self._stack[-1], list):
                raise RefusedPickle("it is damaged: items for what is no list")
            self._stack[-1].extend(values)
        elif word == "TUPLE":
            push(tuple(self._pop_mark()))
        elif word in ("TUPLE1", "TUPLE2", "TUPLE3"):
            push(tuple([self.pop() for _ in range(int(word[-1]))][::-1]))
        elif word == "EMPTY_DICT":
            push({})
        elif word == "DICT":
            values = self._pop_mark()
            push({})
            self._update(values)
        elif word == "SETITEM":
            value, key = self.pop(), self.pop()
            self._update([key, value])
        elif word == "SETITEMS":
            self._update(self._pop_mark())
        elif word == "GLOBAL":
            push(self._name(*argument.split(" ", 1)))
        elif word == "STACK_GLOBAL":
            name, module = self.pop(), self.pop()
            push(self._name(module, name))
        elif word == "REDUCE":
            arguments, callee = self.pop(), self.pop()
            push(self._call(callee, arguments))
        elif word == "BUILD":
            state, target = self.pop(), self.pop()
            if not isinstance(target, Unfinished):
                raise RefusedPickle("it sets the state of what has none")
            target.value = target.finish(state)
            push(target.value)
        elif word == "BINPERSID" and self._load is None:
            needs = f"which no {self._content} needs"
            raise RefusedPickle(f"it refers to another file, {needs}")
        elif word == "BINPERSID":
            identity = self.pop()
            if isinstance(identity, tuple):
                made = (v.make if isinstance(v, _Name) else v for v in identity)
                identity = tuple(made)
            push(self._load(identity))
        else:
            needs = f"which no {self._content} needs"
            raise RefusedPickle(f"it holds the pickle instruction {word}, {needs}")

    def _pop_mark(self):
        """Takes the values behind the last mark, and the mark."""
        for k in range(len(self._stack) - 1, -1, -1):
            if self._stack[k] is _MARK:
                values = self._stack[k + 1 :]
                del self._stack[k:]
                return values
        raise RefusedPickle("it is damaged: the end of a list without its start")

    def _update(self, values):
        target = self._stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise RefusedPickle("it is damaged: items for what is no dict")
        for key, value in zip(values[::2], values[1::2]):
            # The hash of a tuple in tuples recurses.
            if not isinstance(key, (str, bytes, int, float)):
                raise RefusedPickle(f"it holds a dict of {type(key).__name__} keys")
            target[key] = value

    def _name(self, module, name):
        if not isinstance(module, str) or not isinstance(name, str):
            raise RefusedPickle("it is damaged: a name that is no text")
        word = f"{module}.{name}"
        if word not in self._names:
            needs = f"which no {self._content} needs"
            raise RefusedPickle(f"it asks for {word[:160]}, {needs}")
        return _Name(word, self._names[word])

    def _call(self, callee, arguments):
        if not isinstance(callee, _Name) or not isinstance(arguments, tuple):
            raise RefusedPickle("it is damaged: a call of what cannot be called")
        if not callable(callee.make):
            raise RefusedPickle(f"it calls {callee.word}, which is only to be named")
        return callee.make(*arguments)
