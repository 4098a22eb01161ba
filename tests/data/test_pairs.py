import dataclasses
import os
import pickle

import numpy as np
import pytest
from dataset_pairs import pairs_from_list
from dataset_pairs import write_pairs
from records import put
from refusals import refused

from ekd_tf.data import pairs as pairs_module
from ekd_tf.data.pairs import LinkedImages
from ekd_tf.data.pairs import PairImages
from ekd_tf.data.pairs import PairSet
from ekd_tf.data.pairs import read_pairs

JPEG = b"\xff\xd8\xff\xe0 and the rest"


def dump(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def refuses(words, path, pickled):
    """Checks that a file of these bytes is refused."""
    path.write_bytes(pickled)
    refused(words, read_pairs, path)


def test_images_and_issame_of_every_make(tmp_path):
    files = [JPEG + bytes([k]) * 40 for k in range(1, 9)]
    same = [True, False, False, True]
    arrays = [np.frombuffer(file, np.uint8) for file in files]
    objects, flags = np.empty(8, object), np.array(same)
    objects[:] = files
    columns, copies = [a[:, None] for a in arrays], [bytearray(f) for f in files]
    scalars = [np.bytes_(file) for file in files]
    path = tmp_path / "a.bin"
    for protocol in range(6):
        for images in (files, arrays, columns, objects, copies, scalars):
            for issame in (same, flags, list(flags), flags.astype(">i4"), flags * 1.0):
                dump(path, (images, issame), protocol)
                pairs = read_pairs(path)
                assert pairs.images.read(range(8)) == files
                assert pairs.issame.tolist() == same
    assert (pairs.name, len(pairs.images), pairs.issame.dtype) == ("a", 8, bool)
    assert pairs.images.describe(3) == f"{path}: image 2 of pair 2"


def test_missing_and_huge_files_are_refused(tmp_path, monkeypatch):
    refused("cannot read .*gone.bin: No such file", read_pairs, tmp_path / "gone.bin")
    path = dump(tmp_path / "a.bin", ([JPEG] * 2, [True]))
    monkeypatch.setattr(pairs_module, "_MAX_BYTES", 10)
    refused(r"it has \d+ bytes, more than 4 GB", read_pairs, path)


def test_written_sets_are_read_here_and_by_pickle(tmp_path):
    images, path = [JPEG + bytes([k]) for k in range(4)], tmp_path / "x.bin"
    write_pairs(path, images, [True, False])
    again = read_pairs(path)
    assert again.images.read(range(4)) == images
    np.testing.assert_array_equal(again.issame, [True, False])
    assert again.images.fingerprint == PairImages("x", images).fingerprint
    # As insightface reads it.
    found = pickle.loads(path.read_bytes(), encoding="bytes")
    assert found == (images, [True, False])
    assert os.listdir(tmp_path) == ["x.bin"]


def test_fingerprint_follows_content_and_borders():
    prints = [
        PairImages("x", images).fingerprint
        for images in ([b"ab", b"c"], [b"a", b"bc"], [b"ab", b"d"], [b"ab"])
    ]
    assert len(set(prints)) == 4
    assert PairImages("y", [b"ab", b"c"]).fingerprint == prints[0]


@pytest.fixture
def people(tmp_path):
    """Ann with three images, Bo Li with two."""
    for name, count in (("Ann", 3), ("Bo_Li", 2)):
        for k in range(1, count + 1):
            path = tmp_path / "faces" / name / f"{name}_{k:04d}.jpg"
            put(path, JPEG + f"{name}{k}".encode())
    return tmp_path / "faces"


def test_lists_of_other_encodings(tmp_path, people):
    path, folder = tmp_path / "pairs.txt", people / "José"
    for k in (1, 2):
        put(folder / f"José_000{k}.jpg", JPEG)
    path.write_text("José\t1\t2\n", encoding="utf-8-sig")
    assert pairs_from_list(path, people) == ([JPEG, JPEG], [True])
    path.write_bytes("Ann\t1\t2\nJosé\t1\t2\n".encode("latin1"))
    refused("line 2 is not UTF-8.*iconv", pairs_from_list, path, people)
    # Unless the files are named so.
    for old in (*folder.iterdir(), folder):
        name = os.fsdecode(old.name.encode("latin1"))
        old.rename(old.with_name(name))
    assert pairs_from_list(path, people)[1] == [True, True]


def test_linked_images_are_of_one_identity():
    a, b, c, d, e = (bytes([0xFF, 0xD8, 0xFF, k]) for k in range(5))
    # a-b and b-c link a, b and c; d is another's, and e is with a copy of itself.
    images = [d, a, b, a, c, b, e, e]
    pairs = PairSet("set", PairImages("set.bin", images), np.array([0, 1, 1, 1], bool))
    linked = LinkedImages(pairs)
    assert linked.read(range(5)) == [d, a, b, c, e]
    assert linked.labels.tolist() == [0, 1, 1, 1, 2]
    assert (linked.num_identities, len(linked)) == (3, 5)
    assert linked.labels.dtype == np.int32
    assert linked.describe(3) == "set.bin: image 1 of pair 3"
    unlinked = LinkedImages(dataclasses.replace(pairs, issame=np.zeros(4, bool)))
    assert unlinked.num_identities == 5
    assert linked.fingerprint != unlinked.fingerprint
    assert linked.fingerprint == LinkedImages(pairs).fingerprint


def test_what_is_no_set_is_refused_with_path_and_mend(tmp_path):
    two, one = [JPEG] * 2, np.ones
    for value, reason in (
        (two, r"its images and issame are not two lists"),
        ((JPEG, [True]), "its images and issame are not two lists"),
        ((two, [True], 1), "it does not hold two items"),
        (([JPEG] * 3, [True]), "3 images for 1 pairs; two per pair are needed"),
        (([], []), "0 images for 0 pairs"),
        ((two, [2]), "issame of pair 1 is neither True nor False"),
        ((two, ["1"]), "issame of pair 1 is neither"),
        ((two, np.array([np.nan])), "issame of pair 1 is neither"),
        ((np.array(two), [True]), "an array of type 'S"),
        (([JPEG, b"%PDF-1.4"], [True]), "image 2 of pair 1 is neither JPEG nor PNG"),
        (([JPEG, one((4, 2), np.uint8)], [True]), "image 2 of pair 1 is neither"),
        (([JPEG, one(4)], [True]), "image 2 of pair 1 is neither"),
        ((os.getcwd, [True]), r"asks for \w+\.getcwd, which no verification set"),
    ):
        path = dump(tmp_path / "a.bin", value)
        words = rf"a\.bin is not read as a verification set: .*{reason}.*\. Get it from"
        refused(words, read_pairs, path)


def test_makes_a_set_of_a_list_and_a_folder(tmp_path, people):
    path = tmp_path / "pairs.txt"
    for head in ("", "1\n", "1\t1\n", "1 1\n", "\n"):
        path.write_text(head + "Ann\t1\t3\nAnn\t2\tBo_Li\t1\n")
        images, issame = pairs_from_list(path, people)
        names = [image[len(JPEG) :] for image in images]
        assert names == [b"Ann1", b"Ann3", b"Ann2", b"Bo_Li1"]
        assert issame == [True, False]


def test_a_malformed_list_is_refused(tmp_path, people):
    path = tmp_path / "pairs.txt"
    missing = f"2 of 4 images cannot be read. Add.*{people}/Ann/Ann_0007.jpg: No such"
    for text, reason in (
        ("2\n", "lists no pair"),
        ("2\t1\nAnn\t1\t2\n", "first line announces 4 pairs and 1 follow"),
        ("Ann\t1\n", r"line 1 must be two images .* Received: 'Ann\\t1'"),
        ("1\nAnn\t1\tx\n", "line 2 must be two images"),
        ("Ann\t1\t2\nAnn\t1\tAnn\t2\n", "line 2 must be two images"),
        ("Ann\t1\t1\n", "line 1 must be two images .* Received: 'Ann\\\\t1\\\\t1'"),
        ("Cy\t1\t2\n", "2 of 2 images cannot be read. Give the folder that holds"),
        ("Ann\t1\t7\nAnn\t1\tCy\t1\n", f"{missing}.*{people}/Cy/Cy_0001.jpg"),
    ):
        path.write_text(text)
        refused(rf"(?s)pairs\.txt.*{reason}", pairs_from_list, path, people)


# In the form Python 2 gives (protocols 0 and 2), put together by hand, of
# (["\xff\xd8\xff'\n", np.array([[66], [77]], np.uint8)], [np.bool_(False)]).
PYTHON2_TEXT = (
    b'((lp1\nS"\\xff\\xd8\\xff\'\\n"\np2\nacnumpy.core.multiarray\n_reconstruct\np3\n'
    b"(cnumpy\nndarray\np4\n(I0\ntp5\nS'b'\np6\ntp7\nRp8\n(I1\n(L2L\nL1L\ntp9\ncnumpy\n"
    b"dtype\np10\n(S'u1'\np11\nI0\nI1\ntp12\nRp13\n(I3\nS'|'\np14\nNNNI-1\nI-1\nI0\ntp15\n"
    b"bI00\nS'BM'\np16\ntp17\nba(lp18\ncnumpy.core.multiarray\nscalar\np19\n"
    b"(g10\n(S'b1'\np20\nI0\nI1\ntp21\nRp22\n(I3\nS'|'\np23\nNNNI-1\nI-1\nI0\ntp24\n"
    b"bS'\\x00'\np25\ntp26\nRp27\natp28\n."
)
PYTHON2_BINARY = (
    b"\x80\x02]q\x01(U\x05\xff\xd8\xff'\nq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03"
    b"cnumpy\nndarray\nq\x04K\0\x85q\x05U\x01bq\x06\x87q\x07Rq\x08(K\x01\x8a\x01\x02\x8a"
    b"\x01\x01\x86q\tcnumpy\ndtype\nq\nU\x02u1q\x0bK\0K\x01\x87q\x0cRq\r(K\x03U\x01|q\x0e"
    b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tq\x0fb\x89T\x02\0\0\0BMq\x10tq\x11be]"
    b"q\x12(cnumpy.core.multiarray\nscalar\nq\x13h\nU\x02b1q\x14K\0K\x01\x87q\x15Rq"
    b"\x16(K\x03U\x01|q\x17NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tq\x18bU\x01\0q\x19\x86"
    b"q\x1aRq\x1be\x86q\x1c."
)


def test_pickles_of_python_2(tmp_path):
    for data in (PYTHON2_TEXT, PYTHON2_BINARY):
        # The standard library agrees, so these are real pickles.
        images, issame = pickle.loads(data, encoding="bytes")
        # As NumPy 1 and NumPy 2 spell their names.
        for core in (b"numpy.core", b"numpy._core"):
            path = tmp_path / "a.bin"
            path.write_bytes(data.replace(b"numpy.core", core))
            pairs = read_pairs(path)
            assert pairs.images.read([0, 1]) == [images[0], images[1].tobytes()]
            assert pairs.issame.tolist() == issame == [False]


def test_arrays_that_do_not_fit_their_bytes_are_refused(tmp_path):
    # An array by hand, of three bytes; its shape as instructions.
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R"
    array += b"(K\x01%scnumpy\ndtype\nU\x02%s\x85R\x89U\x03abctb."
    for shape, code in (
        (b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85", b"u1"),
        (b"J\xff\xff\xff\xffJ\xfd\xff\xff\xff\x86", b"u1"),
        (b"K\x01K\x01K\x03\x87", b"u1"),
        (b"K\x03\x85", b"i8"),
        (b"(K\x03" + b"K\x01" * 60 + b"t", b"u1"),
    ):
        refuses(r"array of (shape|\d+ dim)", tmp_path / "a.bin", array % (shape, code))


def test_repeating_a_text_cannot_unfold_it(tmp_path):
    # 60 calls on one memoised text of 1,000 letters.
    head = b"\x80\x02c_codecs\nencode\nq\0(X\xe8\x03\0\0" + b"x" * 1000 + b"q\x01"
    head += b"X\x06\0\0\0latin1q\x02"
    once = b"h\0h\x01h\x02\x86R"
    for calls, reason in ((1, "does not hold two"), (60, "unfolds to more than it is")):
        refuses(reason, tmp_path / "a.bin", head + once * calls + b"t.")


def test_allowed_names_do_no_more_than_they_must(tmp_path):
    in_hex = b"c_codecs\nencode\nX\x01\0\0\0xX\x03\0\0\0hex\x86R"
    for code, reason in (
        (b"cnumpy\nndarray\nM\xff\xff\x85R", "damaged or no pickle"),
        (b"c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R", "else than bytes"),
        (in_hex, "text as 'hex', not lat"),
    ):
        refuses(reason, tmp_path / "a.bin", b"\x80\x02" + code + b".")
