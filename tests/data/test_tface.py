"""TFace's index files: images in TFRecord files or in a folder."""

import numpy as np
import pytest
import tensorflow as tf
from refusals import refused

from ekd_tf.data.sources.tface import read_tface
from ekd_tf.data.unreadable import Unreadable


def write_records(root, name, shard, images):
    """Writes a shard as TFace does; returns the offsets."""
    path = root / name / f"{name}-{shard:05d}.tfrecord"
    path.parent.mkdir(exist_ok=True)
    offsets, at = [], 0
    with tf.io.TFRecordWriter(str(path)) as writer:
        for image in images:
            example = tf.train.Example()
            example.features.feature["image"].bytes_list.value.append(image)
            data = example.SerializeToString()
            writer.write(data)
            offsets.append(at)
            at += len(data) + 16
    return offsets


@pytest.fixture
def records(tmp_path):
    """Two sets, one of two shards, and their index with labels 7, 9, 7, 5."""
    first = write_records(tmp_path, "ms1m", 0, [b"a", b"bb"])
    write_records(tmp_path, "ms1m", 12, [b"ccc"])
    write_records(tmp_path, "asia", 0, [b"dddd"])
    text = f"ms1m\t0\t{first[1]}\t7\nasia\t0\t0\t9\nms1m\t12\t0\t7\nms1m\t0\t0\t5\n"
    (tmp_path / "index.txt").write_text(text)
    return tmp_path


@pytest.fixture
def files(tmp_path):
    for name, data in (("x/1.jpg", b"one"), ("y/2.jpg", b"two"), ("y/é 3.jpg", b"3")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    text = "y/2.jpg\t4\r\nx/1.jpg\t2\r\ny/é 3.jpg\t4"
    (tmp_path / "index.txt").write_bytes(text.encode())
    return tmp_path


def test_records_by_shard_and_offset(records):
    faces = read_tface(records / "index.txt")
    assert (len(faces), faces.num_identities, faces.encoded) == (4, 3, True)
    np.testing.assert_array_equal(faces.labels, [1, 2, 1, 0])
    assert faces.labels.dtype == np.int32
    assert faces.read([0, 1, 2, 3, 1]) == [b"bb", b"dddd", b"ccc", b"a", b"dddd"]
    where = f"{records}/ms1m/ms1m-00012.tfrecord: record at offset 0"
    assert faces.describe(2) == where


def test_files_by_path(files):
    faces = read_tface(str(files / "index.txt"))
    np.testing.assert_array_equal(faces.labels, [1, 0, 1])
    assert faces.num_identities == 2
    assert faces.read([2, 0]) == [b"3", b"two"]
    assert faces.describe(1) == f"{files}/x/1.jpg"
    (files / "x" / "1.jpg").unlink()
    refused(None, faces.read, [1], error=FileNotFoundError)


@pytest.mark.parametrize("kind", ["records", "files"])
def test_files_may_be_elsewhere_and_fingerprints_follow_them(kind, request, tmp_path):
    root = request.getfixturevalue(kind)
    text = (root / "index.txt").read_text()
    path = tmp_path / "lists" / "index.txt"
    path.parent.mkdir()
    # Behind a byte-order mark.
    path.write_text(text, encoding="utf-8-sig")
    faces = read_tface(path, root=root)
    assert faces.read([0, 1]) == (
        [b"bb", b"dddd"] if kind == "records" else [b"two", b"one"]
    )
    prints = {faces.fingerprint, read_tface(root / "index.txt").fingerprint}
    assert len(prints) == 1
    lines = text.splitlines()
    for changed in (
        [lines[1], lines[0], *lines[2:]],
        [lines[0][:-1] + "2", *lines[1:]],
    ):
        path.write_text("\n".join(changed))
        prints.add(read_tface(path, root=root).fingerprint)
    image = next(p for p in sorted(root.rglob("*.[jt]*")) if p.suffix != ".txt")
    image.write_bytes(image.read_bytes()[::-1])
    prints.add(read_tface(path, root=root).fingerprint)
    assert len(prints) == 4


def test_a_malformed_index_is_refused(records):
    for text, reason in (
        ("", "lists no image"),
        ("a.jpg\n", "line 1 must be path, label or name, shard, offset, label"),
        ("a.jpg 1\n", "line 1 must be path"),
        ("a.jpg\t1\nb.jpg\n", r"line 2 must be .* all lines alike. Received: b'b.jpg"),
        ("a.jpg\t1\nms1m\t0\t0\t1\n", "line 2 must be path"),
        ("a.jpg\t-1\n", r"line 1 has the label -1. Labels must be in \[0, 2\^24\)"),
        (f"a.jpg\t0\nb.jpg\t{2**24}\n", "line 2 has the label 16777216"),
        (f"a.jpg\t{2**70}\n", "line 1 must be path"),
        ("ms1m\t0\t0\t1\na.jpg\t1\n", "line 2 must be path"),
        ("ms1m\t0\t9999\t1\n", "line 1 lists a record at offset 9999 of .*, which has"),
        ("ms1m\t0\t-4\t1\n", "line 1 lists a record at offset -4"),
    ):
        (records / "index.txt").write_text(text)
        refused(rf"index\.txt:? {reason}", read_tface, records / "index.txt")


def test_records_beyond_the_end_are_damage_where_allowed(records):
    index = records / "index.txt"
    index.write_text("".join(f"ms1m\t0\t{at}\t1\n" for at in (0, 9999, 9998)))
    words = "line 3 lists a record at offset 9998"
    refused(words, read_tface, index, unreadable=Unreadable(1))
    faces = read_tface(index, unreadable=Unreadable(2))
    refused("offset 9999: the file ends before its len", faces.read, [1])


def test_missing_files_are_refused(records):
    refused("cannot read .*gone.txt: No such", read_tface, records / "gone.txt")
    (records / "ms1m" / "ms1m-00012.tfrecord").unlink()
    words = "cannot read .*ms1m-00012.tfrecord: No such"
    refused(words, read_tface, records / "index.txt")
