"""Verification pickles read as data: the same objects, and nothing is run."""

import builtins
import os
import pickle
import struct
import sys

import numpy as np
import pytest

from ekd_tf.data import pair_pickle
from ekd_tf.data.pair_pickle import RefusedPickle
from ekd_tf.data.pair_pickle import read_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


class Call:
    """Pickles as a call of `callee`."""

    def __init__(self, callee, *arguments):
        self.reduced = callee, arguments

    def __reduce__(self):
        return self.reduced


def renamed(data, old, new):
    """A pickle whose names are spelled another way, as another NumPy does."""
    assert old in data
    # Length bytes before the text of protocol 4 and above.
    for pre, post in ((b"c%s\n", b"\n"), (b"\x8c%c%s", b"")):
        if post:
            data = data.replace(pre % old, pre % new)
        else:
            data = data.replace(pre % (len(old), old), pre % (len(new), new))
    return data


def both_spellings(data):
    """The pickle as NumPy 1 and as NumPy 2 write it."""
    own, other = b"numpy._core", b"numpy.core"
    if own not in data:
        own, other = other, own
    framed = data[:2] + data[11:] if data[2:3] == b"\x95" else data
    return [data, renamed(framed, own + b".multiarray", other + b".multiarray")]


# --- what a set consists of ----------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "value",
    [
        ([b"\xff\xd8jpeg\x00\n'\"", b"\x89PNG" * 100, b"x" * 300], [True, False]),
        ([], (), (1,), (1, 2), (1, 2, 3, [4, (5,)])),
        [0, 1, -1, 255, 256, 65535, 65536, 2**31, -(2**31), 2**62, -(2**63)],
        ["text", "ünï", "\n\\", "x" * 300, "\ud800", None, True, False],
    ],
)
def test_gives_what_was_pickled(protocol, value):
    # Protocols 0 to 2 have no bytes but a text that is encoded.
    assert read_pickle(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "array",
    [
        np.frombuffer(b"\xff\xd8\xff\x00\x0a jpeg", np.uint8),
        np.frombuffer(b"\xff\xd8\xff\x00\x0a jpeg", np.uint8).reshape(-1, 1),
        np.array([True, False, True]),
        np.array([1, 0, -7]),
        np.array([1, 0, 7], ">i4"),
        np.array([-1, 2], np.int8),
    ],
    ids=lambda a: f"{a.dtype.str}{a.shape}",
)
def test_arrays_of_both_numpy_spellings(protocol, array):
    data = pickle.dumps([array, array], protocol)
    readings = [data]
    # Protocol 5 writes another name, which has both spellings as well.
    if b"multiarray" in data:
        readings = both_spellings(data)
    for reading in readings:
        first, second = read_pickle(reading)
        np.testing.assert_array_equal(first, array)
        np.testing.assert_array_equal(second, array)
        assert (first.dtype, first.shape) == (array.dtype, array.shape)


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_protocol_5_arrays_of_both_spellings(core):
    # BINBYTES8-free by hand: _frombuffer(b"\1\2", dtype("u1"), (2,), "C").
    data = (
        b"\x80\x05c" + core + b".numeric\n_frombuffer\n"
        b"(C\x02\x01\x02cnumpy\ndtype\n(X\x02\0\0\0u1\x89\x88tRK\x02\x85X\x01\0\0\0CtR."
    )
    np.testing.assert_array_equal(read_pickle(data), [1, 2])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_scalars(protocol):
    values = [np.True_, np.False_, np.int64(-3), np.uint8(200)]
    data = pickle.dumps(values, protocol)
    for reading in both_spellings(data):
        assert read_pickle(reading) == [True, False, -3, 200]


# In the form Python 2 gives (protocols 0 and 2), put together by hand, of
# (["\xff\xd8a'\n", np.array([[1], [255]], np.uint8)], [True, np.bool_(False)]).
PYTHON2_TEXT = (
    b'((lp1\nS"\\xff\\xd8a\'\\n"\np2\nacnumpy.core.multiarray\n_reconstruct\np3\n'
    b"(cnumpy\nndarray\np4\n(I0\ntp5\nS'b'\np6\ntp7\nRp8\n(I1\n(L2L\nL1L\ntp9\ncnumpy\n"
    b"dtype\np10\n(S'u1'\np11\nI0\nI1\ntp12\nRp13\n(I3\nS'|'\np14\nNNNI-1\nI-1\nI0\ntp15\n"
    b"bI00\nS'\\x01\\xff'\np16\ntp17\nba(lp18\nI01\nacnumpy.core.multiarray\nscalar\np19\n"
    b"(g10\n(S'b1'\np20\nI0\nI1\ntp21\nRp22\n(I3\nS'|'\np23\nNNNI-1\nI-1\nI0\ntp24\n"
    b"bS'\\x00'\np25\ntp26\nRp27\natp28\n."
)
PYTHON2_BINARY = (
    b"\x80\x02]q\x01(U\x05\xff\xd8a'\nq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03"
    b"cnumpy\nndarray\nq\x04K\0\x85q\x05U\x01bq\x06\x87q\x07Rq\x08(K\x01\x8a\x01\x02\x8a"
    b"\x01\x01\x86q\tcnumpy\ndtype\nq\nU\x02u1q\x0bK\0K\x01\x87q\x0cRq\r(K\x03U\x01|q\x0e"
    b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tq\x0fb\x89T\x02\0\0\0\x01\xffq\x10tq\x11be]"
    b"q\x12(\x88cnumpy.core.multiarray\nscalar\nq\x13h\nU\x02b1q\x14K\0K\x01\x87q\x15Rq"
    b"\x16(K\x03U\x01|q\x17NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tq\x18bU\x01\0q\x19\x86"
    b"q\x1aRq\x1be\x86q\x1c."
)


@pytest.mark.parametrize("data", [PYTHON2_TEXT, PYTHON2_BINARY])
def test_pickles_of_python_2(data):
    images, issame = read_pickle(data)
    assert images[0] == b"\xff\xd8a'\n"
    np.testing.assert_array_equal(images[1], [[1], [255]])
    assert issame == [True, False]
    # The standard library agrees, so these are real pickles.
    expected, same = pickle.loads(data, encoding="bytes")
    assert expected[0] == images[0] and same == [True, False]
    np.testing.assert_array_equal(expected[1], images[1])


# --- what asks for more --------------------------------------------------------


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


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_malicious_pickles_are_refused_by_name(marker, protocol):
    for name, attack in attacks(marker):
        data = dumps(attack, protocol)
        # The names under which pickle writes them; up to protocol 2 those of Python 2.
        name = name.replace("os.", f"{os.name}.")
        if protocol < 3:
            name = name.replace("builtins.", "__builtin__.")
        else:
            name = name.replace("pickle.loads", "_pickle.loads")
        with pytest.raises(RefusedPickle) as error:
            read_pickle(data)
        assert f"it asks for {name}, which no" in str(error.value)


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


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (b"cos\nsystem\n", "INST by name"),
        (b"(ios\nsystem\n", "b'i'"),
        (b"(cnumpy\ndtype\no", "b'o'"),
        (b"cnumpy\ndtype\n)\x81", r"b'\\x81'"),
        (b"Pabc\n", "b'P'"),
        (b"\x82\x01", r"b'\\x82'"),
        (b"}", "b'}'"),
        (b"\x8f", r"b'\\x8f'"),
        (b"G\0\0\0\0\0\0\0\0", "b'G'"),
        (b"\x97", r"b'\\x97'"),
    ],
)
def test_instructions_no_set_needs_are_refused(code, name):
    if name == "INST by name":
        name = "asks for os.system"
    else:
        name = f"the pickle instruction {name}, which no verification set needs"
    with pytest.raises(RefusedPickle, match=name):
        read_pickle(b"\x80\x02" + code + b".")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            b"cnumpy\nndarray\nM\xff\xff\x85R",
            "calls ndarray, which is only to be named",
        ),
        (b"cnumpy\ndtype\nX\x02\0\0\0O8\x85R", "an array of type 'O8'"),
        (b"cnumpy\ndtype\nX\x02\0\0\0V9\x85R", "an array of type 'V9'"),
        (b"cnumpy\ndtype\n](K\x01e\x85R", "type 'list'|unhashable"),
        (
            b"c_codecs\nencode\nX\x01\0\0\0xX\x03\0\0\0hex\x86R",
            "text as 'hex', not lat",
        ),
        (b"c_codecs\nencode\nX\x01\0\0\0x\x85R", "damaged or no pickle: .*encoding"),
        (b"c_codecs\nencode\nN}b", "instruction b'}'"),
        (b"c_codecs\nencode\nNb", "sets the state of what has none"),
        (b"]Nb", "sets the state of what has none"),
        (b"K\x01)R", "a call of what cannot be called"),
        (b"]N\x85R", "a call of what cannot be called"),
        (b"L" + b"9" * 30 + b"\n", "a number of 30 digits"),
        (b"\x8b\xff\xff\xff\x7f", "a number of 2147483647 bytes"),
    ],
)
def test_allowed_names_do_no_more_than_they_must(code, reason):
    with pytest.raises(RefusedPickle, match=reason):
        read_pickle(b"\x80\x02" + code + b".")


def array_pickle(shape, raw, code=b"u1"):
    """An array by hand; `shape` as instructions."""
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85"
        b"U\x01b\x87R(K\x01" + shape + b"cnumpy\ndtype\nU\x02" + code + b"\x85R\x89"
        b"U" + bytes([len(raw)]) + raw + b"tb."
    )


def test_arrays_by_hand():
    np.testing.assert_array_equal(
        read_pickle(array_pickle(b"K\x02\x85", b"ab")), [97, 98]
    )


@pytest.mark.parametrize(
    ("shape", "raw", "code"),
    [
        (b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85", b"abc", b"u1"),
        (b"J\xff\xff\xff\xffJ\xfd\xff\xff\xff\x86", b"abc", b"u1"),
        (b"K\x01K\x01K\x03\x87", b"abc", b"u1"),
        (b"K\x03\x85", b"abc", b"i8"),
        (b"(K\x03" + b"K\x01" * 60 + b"t", b"abc", b"u1"),
    ],
)
def test_arrays_that_do_not_fit_their_bytes_are_refused(shape, raw, code):
    with pytest.raises(RefusedPickle, match="array of shape|no pickle: can only"):
        read_pickle(array_pickle(shape, raw, code))


@pytest.mark.parametrize(
    "data",
    [
        b"(" * 60_000 + b"t" * 60_000 + b".",
        b")" + b"\x85" * 60_000 + b".",
        b"]" * 60_000 + b"a" * 59_999 + b".",
    ],
)
def test_deep_nesting_is_read_without_recursion(data):
    value = read_pickle(data)
    depth = 0
    while value:
        value, depth = value[0], depth + 1
    assert depth >= 59_999


@pytest.mark.parametrize(
    "code",
    [
        b"\x8e" + struct.pack("<Q", 1 << 62),
        b"\x8d" + struct.pack("<Q", (1 << 64) - 1),
        b"\x96" + struct.pack("<Q", 1 << 40),
        b"B" + struct.pack("<I", (1 << 32) - 1),
        b"X" + struct.pack("<I", (1 << 32) - 1),
        b"T" + struct.pack("<i", -1),
        b"T" + struct.pack("<i", (1 << 31) - 1),
        b"U\xff",
        b"C\x05abcd",
        b"",
        b"M\0",
        b"Sabc",
    ],
)
def test_lengths_beyond_the_file_are_refused_before_memory_is_taken(code):
    with pytest.raises(RefusedPickle, match="it is cut"):
        read_pickle(b"\x80\x02" + code)


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
    monkeypatch.setattr(pair_pickle, "_MAX_STEPS", 10)
    assert read_pickle(b"N0" * 4 + b"N.") is None
    with pytest.raises(RefusedPickle, match="more than 10 instructions"):
        read_pickle(b"N0" * 5 + b"N.")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x80\x02K\x01", r"it is cut: 1 bytes are announced and 0 left \(byte 4\)"),
        (b"\xff\xd8\xff\xe0", r"instruction b'\\xff', .* \(byte 0\)"),
        (b".", "damaged or no pickle: pop from empty list"),
        (b"a.", "damaged or no pickle"),
        (b"e.", "the end of a list without its start"),
        (b"N(e.", "items for what is no list"),
        (b"(.", "a mark where a value is due"),
        (b"h\x05.", r"damaged or no pickle: 5 \(byte 0\)"),
        (b"Ixyz\n.", "invalid literal"),
        (b"Sabc\n.", "a string without quotes"),
        (b"X\x01\0\0\0\xff.", "codec can't decode"),
        (b"c\xff\nx\n.", "codec can't decode"),
    ],
)
def test_damage_is_named_with_its_place(data, reason):
    with pytest.raises(RefusedPickle, match=reason):
        read_pickle(data)


def test_any_damage_is_refused_or_read_and_never_anything_else(rng, recwarn):
    value = ([b"\xff\xd8\xff" + rng.bytes(40) for _ in range(4)], [True, np.False_])
    sources = [pickle.dumps(value, p) for p in (0, 2, 4)] + [PYTHON2_BINARY]
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
