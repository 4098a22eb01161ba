"""Pickles read as data: nothing they ask for is imported, called or made."""

import builtins
import contextlib
import os
import pickle
import re
import struct
import sys

import numpy as np
from refusals import refused

from ekd_tf.data import read_pairs
from ekd_tf.files.restricted_pickle import RefusedPickle
from ekd_tf.files.restricted_pickle import read_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
NAMES = {
    "collections.OrderedDict": dict,
    "_codecs.encode": lambda text, encoding: text.encode(encoding),
    "torch.FloatStorage": "f4",
}


def read(data):
    return read_pickle(data, NAMES, "tensor")


def refuses(words, data):
    refused(words, read, data, error=RefusedPickle)


def test_gives_what_was_pickled():
    value = (
        ([b"\xff\xd8jpeg\x00\n'\"", b"\x89PNG" * 100, b"x" * 300], [True, False]),
        ([], (), (1,), (1, 2), (1, 2, 3, [4, (5,)])),
        [0, 1, -1, 255, 256, 65535, 65536, 2**31, -(2**31), 2**62, -(2**63)],
        [0.0, 1.0, -2.5],
        ["text", "ünï", "\n\\", "x" * 300, "\ud800", None, True, False],
    )
    for protocol in PROTOCOLS:
        # Protocols 0 to 2 have no bytes but a text that is encoded.
        assert read(pickle.dumps(value, protocol)) == value
    for protocol in PROTOCOLS[1:]:
        value = [bytearray(b"ab"), {"a": 1, 2: [3]}] if protocol == 5 else {"a": [1]}
        found = read(pickle.dumps(value, protocol))
        assert found == value
    assert type(found[0]) is bytes


class Call:
    """Pickles as a call of `callee`."""

    def __init__(self, callee, *arguments):
        self.reduced = callee, arguments

    def __reduce__(self):
        return self.reduced


def test_malicious_pickles_are_refused_by_name(tmp_path):
    path, marker = tmp_path / "a.bin", tmp_path / "was run"
    for name, attack in attacks(marker):
        path.write_bytes(attack)
        refused(f"for {re.escape(name)}, which no verification set", read_pairs, path)
        assert not marker.exists()
        # The attacks are real: plain unpickling runs them.
        if name.endswith((".system", ".eval", ".loads")):
            pickle.loads(attack)
            marker.rmdir()


def attacks(marker):
    """Yields the name each attack asks for and its pickle."""
    touch = f"mkdir '{marker}'"
    write = f"__import__('os').mkdir({str(marker)!r})"
    for protocol in PROTOCOLS:
        # The names under which pickle writes them; up to protocol 2 those of Python 2.
        python = "__builtin__" if protocol < 3 else "builtins"
        pickling = "pickle" if protocol < 3 else "_pickle"
        inner = pickle.dumps(Call(os.system, touch))
        for name, call in (
            (f"{os.name}.system", Call(os.system, touch)),
            (f"{python}.eval", Call(builtins.eval, write)),
            (f"{python}.exec", Call(builtins.exec, write)),
            (f"{python}.getattr", Call(getattr, "x", "upper")),
            (f"{python}.__import__", Call(__import__, "antigravity")),
            (f"{python}.bytes", Call(bytes, 1 << 40)),
            ("numpy.load", Call(np.load, str(marker))),
            (f"{pickling}.loads", Call(pickle.loads, inner)),
        ):
            yield name, pickle.dumps(([b"\xff\xd8\xff"] * 2, call), protocol)
    for module, name, *arguments in (
        ("numpy.testing._private.utils", "runstring", write, {}),
        ("numpy", "memmap", str(marker), "u1", "w+", 0, 1),
        ("numpy.core.multiarray", "fromfile", "/etc/passwd"),
        ("numpy.core.multiarray", "_reconstruct.__globals__"),
        ("_codecs", "decode", b"x", "zlib"),
    ):
        written = pickle.dumps(tuple(arguments), 2)[2:-1]
        call = f"c{module}\n{name}\n".encode() + written
        yield f"{module}.{name}", b"\x80\x02" + call + b"R."


def test_refused_names_are_not_imported():
    for module in ("antigravity", "this", "numpy.f2py.crackfortran"):
        sys.modules.pop(module, None)
        refuses(f"asks for {module}.x, which no", f"c{module}\nx\n)R.".encode())
        assert module not in sys.modules


def test_references_take_no_more_memory_than_the_file():
    # A huge number of the memo.
    assert read(b"K\x07r\xff\xff\xff\xffj\xff\xff\xff\xff.") == 7
    # 2^60 leaves to whoever walks it: nobody does.
    bomb = b"]q\0" + b"".join(
        b"]q" + bytes([k + 1]) + b"(h" + bytes([k]) + b"h" + bytes([k]) + b"e"
        for k in range(60)
    )
    assert len(read(bomb + b".")) == 2


def test_any_damage_is_refused_or_read_and_never_anything_else(rng, recwarn):
    value = ([b"\xff\xd8\xff" + rng.bytes(40) for _ in range(4)], [True, False])
    for data in (pickle.dumps(value, p) for p in (0, 2, 4)):
        for _ in range(300):
            spoilt = bytearray(data)
            for at in rng.integers(0, len(data), rng.integers(1, 4)):
                spoilt[at] = rng.integers(0, 256)
            with contextlib.suppress(RefusedPickle):
                read(bytes(spoilt[: rng.integers(1, len(data) + 1)]))


def test_what_no_data_needs_is_refused():
    codec = b"c_codecs\nencode\n"
    for code, reason in (
        (b"(ios\nsystem\n", "instruction INST, which no tensor needs"),
        (b"(ctorch\nFloatStorage\no", "instruction OBJ"),
        (b"ctorch\nFloatStorage\n)\x81", "instruction NEWOBJ"),
        (b"Pabc\n", "instruction PERSID"),
        (b"\x82\x01", "instruction EXT1"),
        (b"\x8b\xff\xff\xff\x7f", "instruction LONG4"),
        (b"N\x85Q", "refers to another file, which no tensor needs"),
        (b"ctorch\nFloatStorage\n)R", "'str' object is not callable"),
        (b"(NN)t(NNu", "dict of NoneType keys"),
        (b"}))s", "a dict of tuple keys"),
        (codec + b"X\x01\0\0\0x\x85R", "damaged or no pickle: .*encoding"),
        (codec + b"}b", "sets the state of what has none"),
        (b"ccollections\nOrderedDict\n)R}b", "sets the state of what has none"),
        (b"]Nb", "sets the state of what has none"),
    ):
        refuses(reason, b"\x80\x02" + code + b".")


def test_deep_nesting_is_read_without_recursion():
    for data in (
        b"(" * 60_000 + b"t" * 60_000 + b".",
        b")" + b"\x85" * 60_000 + b".",
        b"]" * 60_000 + b"a" * 59_999 + b".",
    ):
        value, depth = read(data), 0
        while value:
            value, depth = value[0], depth + 1
        assert depth >= 59_999


def test_damage_is_refused_and_lengths_beyond_the_file_take_no_memory():
    damaged = "damaged or no pickle"
    for code in (
        b"\x8e" + struct.pack("<Q", 1 << 62),
        b"\x8d" + struct.pack("<Q", (1 << 64) - 1),
        b"\x96" + struct.pack("<Q", 1 << 40),
        b"B" + struct.pack("<I", (1 << 32) - 1),
        b"X" + struct.pack("<I", (1 << 32) - 1),
        b"T" + struct.pack("<i", -1),
        b"T" + struct.pack("<i", (1 << 31) - 1),
        *(b"U\xff", b"C\x05abcd", b"", b"M\0", b"Sabc"),
    ):
        refuses(f"it is cut|{damaged}", b"\x80\x02" + code)
    for data, reason in (
        (b"\x80\x02K\x01", "it is cut"),
        (b"\xff\xd8\xff\xe0", f"{damaged}: 255"),
        (b".", f"{damaged}: pop from empty list"),
        *((code, damaged) for code in (b"a.", b"e.", b"N(e.", b"(.")),
        (b"h\x05.", f"{damaged}: .*5"),
        (b"Ixyz\n.", "invalid literal"),
        (b"X\x01\0\0\0\xff.", "codec can't decode"),
        (b"c\xff\nx\n.", "codec can't decode"),
    ):
        refuses(reason, data)
