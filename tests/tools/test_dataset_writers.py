"""Whole data sets written, interrupted and continued."""

import contextlib
import resource

import dataset_writers
import numpy as np
import pytest
import records

from ekd_tf.data.sources.recordio import RecordIOFaces
from ekd_tf.data.sources.tfrecord import TFRecordFaces
from ekd_tf.data.sources.webdataset import WebDatasetFaces

MAGIC = b"\x0a\x23\xd7\xce"
LABELS = np.array([0, 0, 1, 2, 2, 2])
IMAGES = [b"a", MAGIC * 3, b"abcd" + MAGIC + b"efg", b"", b"x" * 50_000, b"last"]


def write(writer, images=IMAGES):
    for image in images[writer.count :]:
        writer.add(image)


def content(root):
    return {path.name: path.read_bytes() for path in root.iterdir()}


READERS = {
    dataset_writers.RecordIOWriter: RecordIOFaces,
    dataset_writers.TFRecordWriter: TFRecordFaces,
    dataset_writers.WebDatasetWriter: WebDatasetFaces,
}


def begin(kind, root):
    root.mkdir(exist_ok=True)
    sizes = {} if kind is dataset_writers.RecordIOWriter else {"shard_size": 4}
    return kind(root, LABELS, **sizes)


def finish(kind, root, images=IMAGES):
    """Begins or goes on with a set and writes what is missing."""
    writer = begin(kind, root)
    write(writer, images)
    writer.finish((112, 96))


def test_recordio_is_laid_out_as_insightface_does(tmp_path):
    images = [b"one", b"two", b"three", b"four", b"five", b"six"]
    expected = records.insightface(list(zip(LABELS.tolist(), images)))
    records.write(tmp_path / "expected", expected)
    (tmp_path / "expected" / "property").write_text("3,112,96")
    finish(dataset_writers.RecordIOWriter, tmp_path / "got", images)
    assert content(tmp_path / "got") == content(tmp_path / "expected")


@pytest.mark.parametrize("kind", READERS)
def test_goes_on_where_it_was_interrupted(tmp_path, kind, monkeypatch):
    finish(kind, tmp_path / "whole")
    # Listed, and made to last, after every record.
    monkeypatch.setattr(dataset_writers, "_SYNC_BYTES", 1)
    for added in (0, 1, 4, 6):
        root = tmp_path / str(added)
        first = begin(kind, root)
        write(first, IMAGES[:added])
        assert first.count == added
        first.close()
        second = begin(kind, root)
        # A TFRecord shard of two is begun again.
        kept = added if kind is dataset_writers.RecordIOWriter else added // 2 * 2
        assert second.count == kept
        second.close()
        finish(kind, root)
        got = {k: v for k, v in content(root).items() if not k.endswith(".part")}
        assert got == content(tmp_path / "whole")


def test_what_was_not_made_to_last_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_writers, "_SYNC_BYTES", 1)
    torn = (b"torn record", b""), (MAGIC + b"\0\0", b"7\t"), (b"", b"7\t10000")
    for number, damage in enumerate(torn):
        root = tmp_path / str(number)
        writer = begin(dataset_writers.RecordIOWriter, root)
        write(writer, IMAGES[:4])
        writer.close()
        for name, data in zip(("train.rec", "train.idx"), damage):
            with open(root / name, "ab") as file:
                file.write(data)
        writer = begin(dataset_writers.RecordIOWriter, root)
        assert writer.count == 4
        writer.close()
        finish(dataset_writers.RecordIOWriter, root)
        assert RecordIOFaces(root).read(range(6)) == IMAGES


@pytest.mark.parametrize("kind", READERS)
def test_a_full_disk_stops_and_leaves_what_can_be_gone_on_with(tmp_path, kind):
    writer = begin(kind, tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may grow beyond 40,000 bytes.
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))
    try:
        with pytest.raises(OSError, match="[Ff]ile too large"):
            write(writer)
            writer.finish((8, 8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "index.json").exists()
    assert not (tmp_path / "property").exists()
    with contextlib.suppress(OSError):
        writer.close()
    finish(kind, tmp_path)
    faces = READERS[kind](tmp_path)
    assert faces.read(range(6)) == IMAGES
    np.testing.assert_array_equal(faces.labels, LABELS)
