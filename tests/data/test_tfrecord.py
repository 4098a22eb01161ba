"""Sharded TFRecord sets as a source of faces."""

import json
import os
import threading

import numpy as np
import pytest
import tensorflow as tf
from dataset_writers import TFRecordWriter

from ekd_tf.data.sources.tfrecord import TFRecordFaces
from ekd_tf.data.sources.tfrecord import pack
from ekd_tf.data.sources.tfrecord import unpack

LABELS = np.array([0, 0, 1, 2, 0], np.int32)
IMAGES = [b"image %d" % k * (k + 1) for k in range(5)]


@pytest.fixture
def root(tmp_path):
    writer = TFRecordWriter(tmp_path / "set", LABELS, shards=2)
    (tmp_path / "set").mkdir()
    for image in IMAGES:
        writer.add(image)
    writer.finish((112, 96))
    return tmp_path / "set"


def rewrite(root, change):
    path = root / "index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


def test_arrays_as_text():
    for dtype in ("<i4", "<i8"):
        values = np.array([0, -1, 2**31 - 1])
        np.testing.assert_array_equal(unpack(pack(values, dtype), dtype), values)
    assert len(unpack(pack([], "<i8"), "<i8")) == 0


def test_reads_images_by_position(root):
    faces = TFRecordFaces(root)
    assert (len(faces), faces.num_identities, faces.encoded) == (5, 3, True)
    np.testing.assert_array_equal(faces.labels, LABELS)
    assert faces.labels.dtype == np.int32
    assert faces.read([4, 0, 4, 2]) == [IMAGES[k] for k in (4, 0, 4, 2)]
    assert faces.name == str(root)
    assert faces.describe(2) == (
        f"{root}/faces-00001-of-00002.tfrecord: record at offset 0"
    )


def test_tensorflow_reads_the_same(root):
    # 5 * 1 // 2 = 2 images in the first shard.
    files = sorted(str(path) for path in root.glob("*.tfrecord"))
    assert [os.path.basename(f) for f in files] == [
        "faces-00000-of-00002.tfrecord",
        "faces-00001-of-00002.tfrecord",
    ]
    found = []
    for data in tf.data.TFRecordDataset(files).as_numpy_iterator():
        feature = tf.train.Example.FromString(data).features.feature
        label = feature["label"].int64_list.value[0]
        found.append((feature["image"].bytes_list.value[0], label))
    assert found == list(zip(IMAGES, LABELS))


def test_the_index_tells_what_others_need(root):
    index = json.loads((root / "index.json").read_text())
    assert (index["count"], index["identities"]) == (5, 3)
    assert index["image_size"] == [112, 96]
    shard = index["shards"][1]
    path = root / shard["file"]
    assert (shard["count"], shard["bytes"]) == (3, path.stat().st_size)
    lengths = []
    for data in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        lengths.append(16 + len(data))
    offsets = np.cumsum([0, *lengths[:-1]])
    np.testing.assert_array_equal(unpack(shard["offsets"], "<i8"), offsets)
    np.testing.assert_array_equal(unpack(shard["labels"], "<i4"), LABELS[2:])


def test_missing_cut_and_foreign_sets_are_refused(root, tmp_path):
    with pytest.raises(ValueError, match=r"index\.json is missing: .*--to=tfrecord"):
        TFRecordFaces(tmp_path)
    first = root / "faces-00000-of-00002.tfrecord"
    with open(first, "ab") as file:
        file.write(b"x")
    size = first.stat().st_size
    words = rf"tfrecord has {size} bytes and .*index\.json says {size - 1}: it was cut"
    with pytest.raises(ValueError, match=words):
        TFRecordFaces(root)
    first.unlink()
    with pytest.raises(ValueError, match="cannot read .*faces-00000.*: No such file"):
        TFRecordFaces(root)


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index.update(format="theirs 2"),
        lambda index: index.pop("format"),
        lambda index: index.update(count=6),
        lambda index: index.update(count=0, shards=[]),
        lambda index: index["shards"].pop(),
        lambda index: index["shards"][0].pop("offsets"),
        lambda index: index["shards"][0].update(labels="AAAA"),
        lambda index: index["shards"][0].update(labels=pack([0, 9], "<i4")),
        lambda index: index["shards"][0].update(labels=pack([0, -1], "<i4")),
        lambda index: index["shards"][0].update(offsets=pack([0, 1, 2], "<i8")),
    ],
)
def test_a_malformed_index_is_refused(root, change):
    rewrite(root, change)
    words = r"index\.json is not the index of a TFRecord set \(.*\. Copy or convert it"
    with pytest.raises(ValueError, match=words):
        TFRecordFaces(root)


def test_what_is_no_json_is_refused(root):
    for text in ("", "{", "[]", "3"):
        (root / "index.json").write_text(text)
        with pytest.raises(ValueError, match="is not the index of a TFRecord set"):
            TFRecordFaces(root)


def test_a_label_that_contradicts_the_index_is_damage(root):
    rewrite(root, lambda i: i["shards"][0].update(labels=pack([0, 1], "<i4")))
    faces = TFRecordFaces(root)
    assert faces.read([0]) == IMAGES[:1]
    with pytest.raises(ValueError, match="its label is 0, in the index 1"):
        faces.read([1])


def test_fingerprint_follows_files_and_labels_and_not_the_place(root, tmp_path):
    first = TFRecordFaces(root).fingerprint
    root.rename(tmp_path / "moved")
    assert TFRecordFaces(tmp_path / "moved").fingerprint == first
    shard = next((tmp_path / "moved").glob("*.tfrecord"))
    shard.write_bytes(shard.read_bytes())
    written = TFRecordFaces(tmp_path / "moved").fingerprint
    change = {"labels": pack([1, 0], "<i4")}
    rewrite(tmp_path / "moved", lambda i: i["shards"][0].update(change))
    assert len({TFRecordFaces(tmp_path / "moved").fingerprint, written, first}) == 3


def test_many_threads_read_right(root):
    faces = TFRecordFaces(root)
    wrong = []

    def read(seed):
        order = np.random.default_rng(seed).integers(0, 5, 200)
        if faces.read(order) != [IMAGES[k] for k in order]:
            wrong.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
