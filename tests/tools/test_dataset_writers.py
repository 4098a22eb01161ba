"""Whole data sets written, interrupted and gone on with."""

import os
import resource

import dataset_writers
import numpy as np
import pytest
import records
from dataset_writers import RecordIOWriter
from dataset_writers import TFRecordWriter
from dataset_writers import WebDatasetWriter

from ekd_tf.data.sources.recordio import RecordIOFaces
from ekd_tf.data.sources.tfrecord import TFRecordFaces
from ekd_tf.data.sources.webdataset import WebDatasetFaces

MAGIC = b"\x0a\x23\xd7\xce"
LABELS = np.array([0, 0, 1, 2, 2, 2])
IMAGES = [b"a", MAGIC * 3, b"abcd" + MAGIC + b"efg", b"", b"x" * 50_000, b"last"]


def write(writer, images=IMAGES, start=None):
    for image in images[writer.count if start is None else start :]:
        writer.add(image)


def content(root):
    return {path.name: path.read_bytes() for path in root.iterdir()}


def recordio(root):
    return RecordIOWriter(root, LABELS)


def tfrecord(root):
    return TFRecordWriter(root, LABELS, shard_size=4)


def webdataset(root):
    return WebDatasetWriter(root, LABELS, shard_size=4)


READERS = {
    recordio: RecordIOFaces,
    tfrecord: TFRecordFaces,
    webdataset: WebDatasetFaces,
}


@pytest.mark.parametrize("make", READERS)
def test_what_is_written_is_read(tmp_path, make):
    writer = make(tmp_path)
    write(writer)
    writer.finish((112, 96))
    faces = READERS[make](tmp_path)
    assert faces.read(range(6)) == IMAGES
    np.testing.assert_array_equal(faces.labels, LABELS)


def test_recordio_is_laid_out_as_insightface_does(tmp_path):
    images = [b"one", b"two", b"three", b"four", b"five", b"six"]
    expected = records.insightface(list(zip(LABELS.tolist(), images)))
    records.write(tmp_path / "expected", expected)
    (tmp_path / "expected" / "property").write_text("3,112,96")
    (tmp_path / "got").mkdir()
    writer = RecordIOWriter(tmp_path / "got", LABELS)
    write(writer, images)
    writer.finish((112, 96))
    assert content(tmp_path / "got") == content(tmp_path / "expected")


@pytest.mark.parametrize("make", READERS)
@pytest.mark.parametrize("added", [0, 1, 4, 6])
def test_goes_on_where_it_was_interrupted(tmp_path, make, added, monkeypatch):
    (tmp_path / "whole").mkdir()
    whole = make(tmp_path / "whole")
    write(whole)
    whole.finish((8, 8))
    # Listed, and made to last, after every record.
    monkeypatch.setattr(dataset_writers, "_SYNC_BYTES", 1)
    (tmp_path / "cut").mkdir()
    first = make(tmp_path / "cut")
    write(first, IMAGES[:added])
    assert first.count == added
    first.close()
    second = make(tmp_path / "cut")
    # A TFRecord shard of two is begun again.
    assert second.count == (added if make is recordio else added // 2 * 2)
    write(second)
    second.finish((8, 8))
    got = content(tmp_path / "cut")
    for name in [name for name in got if name.endswith(".part")]:
        del got[name]
    assert got == content(tmp_path / "whole")


def test_what_was_not_made_to_last_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_writers, "_SYNC_BYTES", 1)
    torn = (b"torn record", b""), (MAGIC + b"\0\0", b"7\t"), (b"", b"7\t10000")
    for number, damage in enumerate(torn):
        root = tmp_path / str(number)
        root.mkdir()
        writer = recordio(root)
        write(writer, IMAGES[:4])
        writer.close()
        for name, data in zip(("train.rec", "train.idx"), damage):
            with open(root / name, "ab") as file:
                file.write(data)
        writer = recordio(root)
        assert writer.count == 4
        write(writer)
        writer.finish((8, 8))
        assert RecordIOFaces(root).read(range(6)) == IMAGES


@pytest.fixture
def small_disk():
    """Lets no file grow beyond 40,000 bytes while in use, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("make", READERS)
def test_a_full_disk_stops_and_leaves_what_can_be_gone_on_with(tmp_path, make, request):
    writer = make(tmp_path)
    request.getfixturevalue("small_disk")
    with pytest.raises(OSError, match="[Ff]ile too large"):
        write(writer)
        writer.finish((8, 8))
    assert not (tmp_path / "index.json").exists()
    assert not (tmp_path / "property").exists()
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (-1, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    )
    try:
        writer.close()
    except OSError:
        pass
    writer = make(tmp_path)
    write(writer)
    writer.finish((8, 8))
    assert READERS[make](tmp_path).read(range(6)) == IMAGES


def test_recordio_needs_grouped_labels(tmp_path):
    for labels in ([], [0, 2], [1, 1], [0, 1, 0], [-1, 0]):
        with pytest.raises(ValueError, match="`labels` must hold 0, 1, 2, ... without"):
            RecordIOWriter(tmp_path, np.array(labels, np.int64))
    assert not os.listdir(tmp_path)
