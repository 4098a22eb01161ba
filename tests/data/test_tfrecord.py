import json
import os

import numpy as np
import pytest
import tensorflow as tf
from dataset_writers import TFRecordWriter
from dataset_writers import pack
from dataset_writers import record_offsets
from records import example
from records import write_examples
from refusals import refused

from ekd_tf.data.sources.tfrecord import TFRecordFaces
from ekd_tf.data.sources.tfrecord import read_example
from ekd_tf.files.positioned import PositionedFile

LABELS = np.array([0, 0, 1, 2, 0], np.int32)
IMAGES = [b"image %d" % k * (k + 1) for k in range(5)]


@pytest.fixture
def root(tmp_path):
    writer = TFRecordWriter(tmp_path / "set", LABELS, shard_size=3)
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


def test_tensorflow_reads_the_same(root):
    files = sorted(str(path) for path in root.glob("*.tfrecord"))
    # Three images are in the first shard.
    where = f"{files[1]}: record at offset 0"
    assert TFRecordFaces(root).describe(3) == where
    found = []
    for data in tf.data.TFRecordDataset(files).as_numpy_iterator():
        feature = tf.train.Example.FromString(data).features.feature
        label = feature["label"].int64_list.value[0]
        found.append((feature["image"].bytes_list.value[0], label))
    assert found == list(zip(IMAGES, LABELS))


def test_cut_and_foreign_sets_are_refused(root, tmp_path):
    refused(r"index\.json is missing: .*--to=tfrecord", TFRecordFaces, tmp_path)
    first = root / "faces-00000-of-00002.tfrecord"
    size = first.stat().st_size
    first.write_bytes(first.read_bytes() + b"x")
    refused(f"{size + 1} bytes and .* says {size}: it was cut", TFRecordFaces, root)


def test_a_malformed_index_is_refused(root):
    words = r"index\.json is not the index of a TFRecord set \(.*\. Copy or convert it"
    whole = (root / "index.json").read_text()
    for change in (
        lambda index: index.update(format="theirs 2"),
        lambda index: index.update(count=6),
        lambda index: index.update(count=0, shards=[]),
        lambda index: index["shards"][0].pop("offsets"),
        lambda index: index["shards"][0].update(labels="AAAA"),
        lambda index: index["shards"][0].update(labels=pack([0, 9, 1], "<i4")),
        lambda index: index["shards"][0].update(offsets=pack([0, 1], "<i8")),
    ):
        (root / "index.json").write_text(whole)
        rewrite(root, change)
        refused(words, TFRecordFaces, root)


def test_a_label_that_contradicts_the_index_is_damage(root):
    rewrite(root, lambda i: i["shards"][0].update(labels=pack([0, 1, 1], "<i4")))
    faces = TFRecordFaces(root)
    assert faces.read([0]) == IMAGES[:1]
    refused("its label is 0, in the index 1", faces.read, [1])


def test_damage_is_named_with_file_and_offset(tmp_path):
    path, changed = tmp_path / "a.tfrecord", tmp_path / "changed"
    _, size, last = write_examples(path, [example(image=b"abc" * 50)] * 3)
    refused("holds 3 .*, not 2", record_offsets, PositionedFile(path), 2)
    os.truncate(path, last + 100)
    file, content = PositionedFile(path), path.read_bytes()
    assert read_example(file, size)[0] == b"abc" * 50
    for at in range(0, size, 7):
        changed.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        refused("offset 0: .*checksum", read_example, PositionedFile(changed), 0)
    ends = f"record at offset {last}: it has {size - 16} bytes and the file ends"
    for at, words in (
        (last, ends),
        (3, "the checksum of its length is wrong"),
        (10_000, "the file ends before its length"),
    ):
        refused(words, read_example, file, at)
    refused("3 records .* not 3. Delete it and", record_offsets, file, 3)


def test_reads_what_tensorflow_wrote_in_any_order(tmp_path, rng):
    images = [rng.bytes(n) for n in (0, 5, 100_000)]
    examples = [example(image=image, label=k) for k, image in enumerate(images)]
    examples += [example(image=b"x"), example(a=b"first", image=b"y", label=-3)]
    offsets = write_examples(tmp_path / "a.tfrecord", examples)
    file = PositionedFile(tmp_path / "a.tfrecord")
    for k in (2, 0, 1):
        assert read_example(file, offsets[k]) == (images[k], k)
    assert read_example(file, offsets[3]) == (b"x", None)
    assert read_example(file, offsets[4]) == (b"y", -3)
    assert record_offsets(file, 5) == offsets


def test_other_messages_are_refused(tmp_path):
    path, two_images = tmp_path / "a.tfrecord", example(image=[b"a", b"b"])
    words = r"a\.tfrecord: record at offset 0: it is no tf\.train\.Example with one"
    for record in (b"\xff\xff\xff", example(label=3), two_images, example(image=3)):
        write_examples(path, [record])
        refused(words, read_example, PositionedFile(path), 0)
