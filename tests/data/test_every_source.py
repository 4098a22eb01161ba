"""What a source of image files promises, whatever the format of its set."""

import os

import numpy as np
import pytest
import records
from dataset_writers import RecordIOWriter
from dataset_writers import TFRecordWriter
from dataset_writers import WebDatasetWriter

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


def by_tool(writer_class, **sizes):
    def write(root, labels, images):
        writer = writer_class(root, np.array(labels, np.int32), **sizes)
        for image in images:
            writer.add(image)
        writer.finish((112, 96))
        return root

    return write


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


FORMATS = {
    "folder": (write_folder, FolderFaces),
    "recordio": (by_tool(RecordIOWriter), RecordIOFaces),
    "tfrecord": (by_tool(TFRecordWriter, shard_size=3), TFRecordFaces),
    "webdataset": (by_tool(WebDatasetWriter, shard_size=3), WebDatasetFaces),
    "tface files": (write_tface_files, read_tface),
    "tface records": (write_tface_records, read_tface),
}


def opened(kind, root, labels=LABELS, images=IMAGES, seconds=5):
    """Opens a set of files so old."""
    write, open_set = FORMATS[kind]
    root.mkdir()
    path = write(root, labels, images)
    for file in root.rglob("*.*"):
        os.utime(file, (seconds, seconds))
    return open_set(path)


@pytest.mark.parametrize("kind", FORMATS)
def test_reads_images_by_position(kind, tmp_path, warnings_logged):
    faces = opened(kind, tmp_path / "set")
    assert (len(faces), faces.num_identities, faces.encoded) == (4, 3, True)
    assert faces.labels.dtype == np.int32
    np.testing.assert_array_equal(faces.labels, LABELS)
    assert faces.read(np.array([3, 0, 3])) == [b"four", b"one", b"four"]
    assert faces.read([]) == [] and warnings_logged == []
    assert faces.describe(3).startswith(f"{tmp_path}/set/")


@pytest.mark.parametrize("kind", FORMATS)
def test_fingerprint_follows_images_and_labels_and_not_the_place(kind, tmp_path):
    first = opened(kind, tmp_path / "set").fingerprint
    assert opened(kind, tmp_path / "same").fingerprint == first
    others = (
        opened(kind, tmp_path / "longer", images=[*IMAGES[:3], b"four" * 5000]),
        opened(kind, tmp_path / "relabelled", labels=[0, 1, 1, 2]),
        opened(kind, tmp_path / "replaced", seconds=6),
    )
    assert len({first, *(faces.fingerprint for faces in others)}) == 4


@pytest.mark.parametrize("kind", ["tfrecord", "webdataset", "tface records"])
@pytest.mark.usefixtures("few_descriptors")
def test_sets_may_have_more_files_than_a_process_may_open(kind, tmp_path):
    write, open_set = FORMATS[kind]
    (tmp_path / "set").mkdir()
    path = write(tmp_path / "set", LABELS, IMAGES)
    sets = [open_set(path) for _ in range(16)]
    assert {*sets[0].read([3]), *sets[-1].read([3])} == {b"four"}
