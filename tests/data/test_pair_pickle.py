"""Verification pickles give the same objects as `pickle`, whoever wrote them."""

import pickle

import numpy as np
import pytest

from ekd_tf.data.pair_pickle import read_pair_pickle
from ekd_tf.files.restricted_pickle import RefusedPickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


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
    images, issame = read_pair_pickle(data)
    assert images[0] == b"\xff\xd8a'\n"
    np.testing.assert_array_equal(images[1], [[1], [255]])
    assert issame == [True, False]
    # The standard library agrees, so these are real pickles.
    expected, same = pickle.loads(data, encoding="bytes")
    assert expected[0] == images[0] and same == [True, False]
    np.testing.assert_array_equal(expected[1], images[1])


def array_pickle(shape, raw, code=b"u1"):
    """An array by hand; `shape` as instructions."""
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85"
        b"U\x01b\x87R(K\x01" + shape + b"cnumpy\ndtype\nU\x02" + code + b"\x85R\x89"
        b"U" + bytes([len(raw)]) + raw + b"tb."
    )


def test_gives_what_was_pickled():
    for value in (
        ([b"\xff\xd8jpeg\x00\n'\"", b"\x89PNG" * 100, b"x" * 300], [True, False]),
        ([], (), (1,), (1, 2), (1, 2, 3, [4, (5,)])),
        [0, 1, -1, 255, 256, 65535, 65536, 2**31, -(2**31), 2**62, -(2**63)],
        [0.0, 1.0, -2.5, {"a": 1, 2: [3]}],
        ["text", "ünï", "\n\\", "x" * 300, "\ud800", None, True, False],
    ):
        for protocol in PROTOCOLS:
            # Protocols 0 to 2 have no bytes but a text that is encoded.
            assert read_pair_pickle(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_and_scalars_of_both_numpy_spellings(protocol):
    image = np.frombuffer(b"\xff\xd8\xff\x00\x0a jpeg", np.uint8)
    for array in (
        image,
        image.reshape(-1, 1),
        np.array([True, False, True]),
        np.array([1, 0, -7]),
        np.array([1, 0, 7], ">i4"),
        np.array([-1, 2], np.int8),
        np.array([1, 0.5], np.float32),
        np.array([[1, 2], [3, 4]], np.int16, order="F"),
    ):
        data = pickle.dumps([array, array], protocol)
        # Protocol 5 writes another name, which has both spellings as well.
        for reading in both_spellings(data) if b"multiarray" in data else [data]:
            for found in read_pair_pickle(reading):
                np.testing.assert_array_equal(found, array)
                assert (found.dtype, found.shape) == (array.dtype, array.shape)
    values = [np.True_, np.False_, np.int64(-3), np.uint8(200)]
    for reading in both_spellings(pickle.dumps(values, protocol)):
        assert read_pair_pickle(reading) == [True, False, -3, 200]


def test_arrays_that_do_not_fit_their_bytes_are_refused():
    fitting = read_pair_pickle(array_pickle(b"K\x02\x85", b"ab"))
    np.testing.assert_array_equal(fitting, [97, 98])
    for shape, code in (
        (b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85", b"u1"),
        (b"J\xff\xff\xff\xffJ\xfd\xff\xff\xff\x86", b"u1"),
        (b"K\x01K\x01K\x03\x87", b"u1"),
        (b"K\x03\x85", b"i8"),
        (b"(K\x03" + b"K\x01" * 60 + b"t", b"u1"),
    ):
        with pytest.raises(RefusedPickle, match=r"array of (shape|\d+ dimensions)"):
            read_pair_pickle(array_pickle(shape, b"abc", code))
