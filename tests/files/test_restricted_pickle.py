"""Pickles read as data: nothing they ask for is imported, called or made."""

import builtins
import os
import pickle
import struct
import sys

import numpy as np
import pytest

from ekd_tf.data.pair_pickle import read_pair_pickle as read_pickle
from ekd_tf.files import restricted_pickle
from ekd_tf.files.restricted_pickle import RefusedPickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


class Call:
    """Pickles as a call of `callee`."""

    def __init__(self, callee, *arguments):
        self.reduced = callee, arguments

    def __reduce__(self):
        return self.reduced


@pytest.fixture
def marker(tmp_path):
    """A file that exists afterwards only if something was run."""
    path = tmp_path / "was run"
    yield path
    assert not path.exists()


def attacks(marker):
    touch = f"mkdir '{marker}'"
    write = f"__import__('os').mkdir({str(marker)!r})"
    yield "os.system", Call(os.system, touch)
    yield "builtins.eval", Call(builtins.eval, write)
    yield "builtins.exec", Call(builtins.exec, write)
    yield "builtins.getattr", Call(getattr, "x", "upper")
    yield "builtins.__import__", Call(__import__, "antigravity")
    yield "builtins.bytes", Call(bytes, 1 << 40)
    yield (
        "numpy.testing._private.utils.runstring",
        Named("numpy.testing._private.utils", "runstring", write, {}),
    )
    yield "numpy.load", Call(np.load, str(marker))
    yield "numpy.memmap", Named("numpy", "memmap", str(marker), "u1", "w+", 0, 1)
    yield (
        "numpy.f2py.crackfortran.myeval",
        Named("numpy.f2py.crackfortran", "myeval", write),
    )
    yield (
        "numpy.core.multiarray.fromfile",
        Named("numpy.core.multiarray", "fromfile", "/etc/passwd"),
    )
    yield (
        "numpy.core.multiarray._reconstruct.__globals__",
        Named("numpy.core.multiarray", "_reconstruct.__globals__"),
    )
    yield "_codecs.decode", Named("_codecs", "decode", b"x", "zlib")
    yield "pickle.loads", Call(pickle.loads, pickle.dumps(Call(os.system, touch)))


class Named:
    """A call of a name that need not exist here."""

    def __init__(self, module, name, *arguments):
        self.module, self.name, self.arguments = module, name, arguments


def dumps(attack, protocol):
    """Pickles a set whose second item makes the attack, with the names it needs."""
    if isinstance(attack, Call):
        return pickle.dumps(([b"\xff\xd8\xff"] * 2, attack), protocol)
    arguments = pickle.dumps(attack.arguments, 2)[2:-1]
    name = f"c{attack.module}\n{attack.name}\n".encode()
    return b"\x80\x02" + name + arguments + b"R."


def test_the_attacks_are_real(tmp_path):
    # The fixture above proves something only if plain unpickling runs them.
    for name, attack in attacks(tmp_path / "was run"):
        if name in ("os.system", "builtins.eval", "pickle.loads"):
            pickle.loads(dumps(attack, 2))
            (tmp_path / "was run").rmdir()


def test_refused_names_are_not_imported(marker):
    for module in ("antigravity", "this", "numpy.f2py.crackfortran"):
        sys.modules.pop(module, None)
        with pytest.raises(RefusedPickle, match=f"asks for {module}.x, which no"):
            read_pickle(f"c{module}\nx\n)R.".encode())
        assert module not in sys.modules


def test_huge_memo_numbers_take_no_memory():
    assert read_pickle(b"K\x07r\xff\xff\xff\xffj\xff\xff\xff\xff.") == 7


def test_repeating_a_text_cannot_unfold_it(monkeypatch):
    # 60 calls on one memoised text of 1,000 letters.
    head = b"\x80\x02c_codecs\nencode\nq\0(X\xe8\x03\0\0" + b"x" * 1000 + b"q\x01"
    head += b"X\x06\0\0\0latin1q\x02"
    once = b"h\0h\x01h\x02\x86R"
    assert read_pickle(head + once + b"\x86.")[1] == b"x" * 1000
    with pytest.raises(RefusedPickle, match="unfolds to more than it is long"):
        read_pickle(head + once * 60 + b"t.")


def test_lists_of_lists_by_reference_cost_their_length_in_the_file():
    # 2^60 leaves to whoever walks it: nobody does.
    bomb = b"]q\0" + b"".join(
        b"]q" + bytes([k + 1]) + b"(h" + bytes([k]) + b"h" + bytes([k]) + b"e"
        for k in range(60)
    )
    assert len(read_pickle(bomb + b".")) == 2


def test_a_number_of_instructions_is_enough(monkeypatch):
    monkeypatch.setattr(restricted_pickle, "_MAX_STEPS", 10)
    assert read_pickle(b"N0" * 4 + b"N.") is None
    with pytest.raises(RefusedPickle, match="more than 10 instructions"):
        read_pickle(b"N0" * 5 + b"N.")


def test_any_damage_is_refused_or_read_and_never_anything_else(rng, recwarn):
    value = ([b"\xff\xd8\xff" + rng.bytes(40) for _ in range(4)], [True, np.False_])
    sources = [pickle.dumps(value, p) for p in (0, 2, 4)]
    for data in sources:
        for _ in range(300):
            spoilt = bytearray(data)
            for at in rng.integers(0, len(data), rng.integers(1, 4)):
                spoilt[at] = rng.integers(0, 256)
            try:
                read_pickle(bytes(spoilt[: rng.integers(1, len(data) + 1)]))
            except RefusedPickle:
                pass
            read_pickle(data)


def test_malicious_pickles_are_refused_by_name(marker):
    for attacked, attack in attacks(marker):
        # The names under which pickle writes them; up to protocol 2 those of Python 2.
        for protocol in PROTOCOLS:
            name = attacked.replace("os.", f"{os.name}.")
            if protocol < 3:
                name = name.replace("builtins.", "__builtin__.")
            else:
                name = name.replace("pickle.loads", "_pickle.loads")
            with pytest.raises(RefusedPickle) as error:
                read_pickle(dumps(attack, protocol))
            assert f"it asks for {name}, which no" in str(error.value)


def test_instructions_no_set_needs_are_refused():
    for code, name in (
        (b"(ios\nsystem\n", "INST"),
        (b"(cnumpy\ndtype\no", "OBJ"),
        (b"cnumpy\ndtype\n)\x81", "NEWOBJ"),
        (b"Pabc\n", "PERSID"),
        (b"\x82\x01", "EXT1"),
        (b"\x8f", "EMPTY_SET"),
        (b"\x97", "NEXT_BUFFER"),
    ):
        name = f"the pickle instruction {name}, which no verification set needs"
        with pytest.raises(RefusedPickle, match=name):
            read_pickle(b"\x80\x02" + code + b".")


def test_allowed_names_do_no_more_than_they_must():
    codec = b"c_codecs\nencode\n"
    for code, reason in (
        (
            b"cnumpy\nndarray\nM\xff\xff\x85R",
            "calls numpy.ndarray, which is only to be",
        ),
        (b"N\x85Q", "refers to another file"),
        (b"(NN)t(Nu", "items for what is no dict"),
        (b"}))s", "a dict of tuple keys"),
        (
            b"c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R",
            "something else than bytes",
        ),
        (b"cnumpy\ndtype\n](K\x01e\x85R", "type 'list'|unhashable"),
        (codec + b"X\x01\0\0\0xX\x03\0\0\0hex\x86R", "text as 'hex', not lat"),
        (codec + b"X\x01\0\0\0x\x85R", "damaged or no pickle: .*encoding"),
        (codec + b"}b", "sets the state of what has none"),
        (codec + b"Nb", "sets the state of what has none"),
        (b"]Nb", "sets the state of what has none"),
        (b"K\x01)R", "a call of what cannot be called"),
        (b"]N\x85R", "a call of what cannot be called"),
        (b"L" + b"9" * 30 + b"\n", "a number of 100 bits"),
        (b"\x8b\xff\xff\xff\x7f", "not enough data"),
    ):
        with pytest.raises(RefusedPickle, match=reason):
            read_pickle(b"\x80\x02" + code + b".")


def test_deep_nesting_is_read_without_recursion():
    for data in (
        b"(" * 60_000 + b"t" * 60_000 + b".",
        b")" + b"\x85" * 60_000 + b".",
        b"]" * 60_000 + b"a" * 59_999 + b".",
    ):
        value, depth = read_pickle(data), 0
        while value:
            value, depth = value[0], depth + 1
        assert depth >= 59_999


def test_lengths_beyond_the_file_are_refused_before_memory_is_taken():
    words = "it is cut|remain|not enough|byte count|no newline"
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
        with pytest.raises(RefusedPickle, match=words):
            read_pickle(b"\x80\x02" + code)


def test_damage_is_named_with_its_place():
    for data, reason in (
        (b"\x80\x02K\x01", r"it is cut \(byte 4\)"),
        (b"\xff\xd8\xff\xe0", r"instruction b'\\xff', .* \(byte 0\)"),
        (b".", "damaged or no pickle: pop from empty list"),
        (b"a.", "damaged or no pickle"),
        (b"e.", "the end of a list without its start"),
        (b"N(e.", "items for what is no list"),
        (b"(.", "a mark where a value is due"),
        (b"h\x05.", r"damaged or no pickle: 5 \(byte 0\)"),
        (b"Ixyz\n.", "invalid literal"),
        (b"Sabc\n.", "no string quotes"),
        (b"X\x01\0\0\0\xff.", "codec can't decode"),
        (b"c\xff\nx\n.", "codec can't decode"),
    ):
        with pytest.raises(RefusedPickle, match=reason):
            read_pickle(data)
