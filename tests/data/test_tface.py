import numpy as np
import pytest
from records import example
from records import put
from records import write_examples
from refusals import refused

from ekd_tf.data.sources.tface import read_tface
from ekd_tf.data.unreadable import Unreadable


@pytest.fixture
def records(tmp_path):
    """Two sets, one of two shards, and their index with labels 7, 9, 7, 5."""
    for name, images in (
        ("ms1m/ms1m-00012", [b"ccc"]),
        ("asia/asia-00000", [b"dddd"]),
        ("ms1m/ms1m-00000", [b"a", b"bb"]),
    ):
        path = tmp_path / f"{name}.tfrecord"
        first = write_examples(path, [example(image=image) for image in images])
    text = f"ms1m\t0\t{first[1]}\t7\nasia\t0\t0\t9\nms1m\t12\t0\t7\nms1m\t0\t0\t5\n"
    (tmp_path / "index.txt").write_text(text)
    return tmp_path


def test_records_by_shard_and_offset(records):
    faces = read_tface(records / "index.txt")
    np.testing.assert_array_equal(faces.labels, [1, 2, 1, 0])
    assert faces.read([0, 1, 2, 3, 1]) == [b"bb", b"dddd", b"ccc", b"a", b"dddd"]
    where = f"{records}/ms1m/ms1m-00012.tfrecord: record at offset 0"
    assert faces.describe(2) == where


def test_files_by_path_may_be_elsewhere(tmp_path):
    root, index = tmp_path / "faces", tmp_path / "index.txt"
    for name, data in (("x/1.jpg", b"one"), ("y/2.jpg", b"two"), ("y/é 3.jpg", b"3")):
        put(root / name, data)
    # Behind a byte-order mark.
    index.write_text("y/2.jpg\t4\r\nx/1.jpg\t2\r\ny/é 3.jpg\t4", "utf-8-sig")
    faces = read_tface(str(index), root=root)
    np.testing.assert_array_equal(faces.labels, [1, 0, 1])
    assert faces.read([2, 0]) == [b"3", b"two"]
    assert faces.describe(1) == f"{root}/x/1.jpg"
    (root / "x" / "1.jpg").unlink()
    refused(None, faces.read, [1], error=FileNotFoundError)


def test_a_malformed_index_is_refused(records):
    for text, reason in (
        ("", "lists no image"),
        ("a.jpg 1\n", "line 1 must be path, label or name, shard, offset, label"),
        ("a.jpg\t1\nb.jpg\n", r"line 2 must be .* all lines alike. Received: b'b.jpg"),
        ("a.jpg\t-1\n", r"line 1 has the label -1. Labels must be in \[0, 2\^24\)"),
        (f"a.jpg\t0\nb.jpg\t{2**24}\n", "line 2 has the label 16777216"),
        (f"ms1m\t0\t{2**70}\t1\n", "line 1 must be path"),
        ("ms1m\t0\t0\t1\na.jpg\t1\n", "line 2 must be path"),
        ("ms1m\t0\t9999\t1\n", "line 1 lists a record at offset 9999 of .*, which has"),
        ("ms1m\t0\t-4\t1\n", "line 1 lists a record at offset -4"),
    ):
        (records / "index.txt").write_text(text)
        refused(rf"index\.txt:? {reason}", read_tface, records / "index.txt")


def test_records_beyond_the_end_are_damage_where_allowed(records):
    index = records / "index.txt"
    index.write_text("".join(f"ms1m\t0\t{at}\t1\n" for at in (0, 9999, 9998)))
    refused("record at offset 9998", read_tface, index, unreadable=Unreadable(1))
    faces = read_tface(index, unreadable=Unreadable(2))
    refused("offset 9999: the file ends before its len", faces.read, [1])
