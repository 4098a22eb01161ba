"""What a source of image files promises, whatever the format of its set."""

import os

import numpy as np
import pytest
import records
from dataset_writers import TFRecordWriter

from ekd_tf.data import FolderFaces
from ekd_tf.data import RecordIOFaces
from ekd_tf.data import WebDatasetFaces
from ekd_tf.data.sources.tface import read_tface
from ekd_tf.data.sources.tfrecord import TFRecordFaces

LABELS = [0, 0, 1, 2]
IMAGES = [b"one", b"the second", b"three", b"four"]


def write_folder(root, labels, images):
    for k, (label, image) in enumerate(zip(labels, images)):
        records.put(root / f"person {label}" / f"{k}.jpg", image)
    return root


def write_recordio(root, labels, images):
    records.write(root, records.insightface(list(zip(labels, images))))
    return root


def write_tfrecord(root, labels, images):
    writer = TFRecordWriter(root, np.array(labels, np.int32), shard_size=3)
    for image in images:
        writer.add(image)
    writer.finish((112, 96))
    return root


def write_tface_files(root, labels, images):
    for k, image in enumerate(images):
        records.put(root / f"{k}.jpg", image)
    lines = [f"{k}.jpg\t{label}\n" for k, label in enumerate(labels)]
    (root / "index.txt").write_text("".join(lines))
    return root / "index.txt"


def write_tface_records(root, labels, images):
    examples = [records.example(image=image) for image in images]
    offsets = records.write_examples(root / "set" / "set-00000.tfrecord", examples)
    lines = [f"set\t0\t{at}\t{label}\n" for at, label in zip(offsets, labels)]
    (root / "index.txt").write_text("".join(lines))
    return root / "index.txt"


def write_webdataset(root, labels, images):
    for shard, rows in enumerate((range(3), range(3, len(images)))):
        members = []
        for k in rows:
            members += [(f"{k}.jpg", images[k]), (f"{k}.cls", b"%d" % labels[k])]
        records.write_tar(root / f"faces-{shard:04d}.tar", members)
    return root


@pytest.fixture(
    params=[
        (write_folder, FolderFaces),
        (write_recordio, RecordIOFaces),
        (write_tfrecord, TFRecordFaces),
        (write_tface_files, read_tface),
        (write_tface_records, read_tface),
        (write_webdataset, WebDatasetFaces),
    ],
    ids=lambda pair: pair[0].__name__.removeprefix("write_"),
)
def opened(request, tmp_path):
    """Returns `(name, labels, images, time) -> source` of a set of files so old."""
    write, open_set = request.param

    def opened(name, labels=LABELS, images=IMAGES, seconds=5):
        (tmp_path / name).mkdir()
        path = write(tmp_path / name, labels, images)
        for file in (tmp_path / name).rglob("*.*"):
            os.utime(file, (seconds, seconds))
        return open_set(path)

    return opened


def test_reads_images_by_position(opened, tmp_path, warnings_logged):
    faces = opened("set")
    assert (len(faces), faces.num_identities, faces.encoded) == (4, 3, True)
    assert faces.labels.dtype == np.int32
    np.testing.assert_array_equal(faces.labels, LABELS)
    assert faces.read(np.array([3, 0, 3])) == [b"four", b"one", b"four"]
    assert faces.read([]) == [] and warnings_logged == []
    assert faces.describe(3).startswith(f"{tmp_path}/set/")


def test_fingerprint_follows_images_and_labels_and_not_the_place(opened):
    first = opened("set").fingerprint
    assert opened("of the same files").fingerprint == first
    others = (
        opened("longer", images=[*IMAGES[:3], b"four" * 5000]),
        opened("relabelled", labels=[0, 1, 1, 2]),
        opened("replaced", seconds=6),
    )
    assert len({first, *(faces.fingerprint for faces in others)}) == 4
