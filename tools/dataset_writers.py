"""Writers of whole data sets that continue where an earlier try was interrupted."""

from __future__ import annotations

import base64
import json
import os
import pathlib
import struct
import tarfile
import zlib

import numpy as np
import tensorflow as tf

from ekd_tf.data.sources.recordio import FIRST
from ekd_tf.data.sources.recordio import HEADER
from ekd_tf.data.sources.recordio import LAST
from ekd_tf.data.sources.recordio import LENGTH_BITS
from ekd_tf.data.sources.recordio import MAGIC
from ekd_tf.data.sources.recordio import MIDDLE
from ekd_tf.data.sources.recordio import NAMES_SUFFIX
from ekd_tf.data.sources.recordio import PART
from ekd_tf.data.sources.recordio import WHOLE
from ekd_tf.data.sources.recordio import read_record
from ekd_tf.data.sources.tar import BLOCK
from ekd_tf.data.sources.tfrecord import CHECKSUM
from ekd_tf.data.sources.tfrecord import FORMAT
from ekd_tf.data.sources.tfrecord import HEAD
from ekd_tf.data.sources.tfrecord import INDEX_FILE
from ekd_tf.data.sources.tfrecord import masked_crc32c
from ekd_tf.data.sources.tfrecord import record_length
from ekd_tf.files.atomic import write_text
from ekd_tf.files.positioned import PositionedFile

# Bytes after which what is written is made to last.
_SYNC_BYTES = 1 << 26
_MAGIC_BYTES = struct.pack("<I", MAGIC)


def frame(payload: bytes) -> bytes:
    """Returns the bytes that stand for `payload` in a RecordIO file.

    It is cut where it holds the magic number at a multiple of four.
    """
    parts, start = [], 0
    place = payload.find(_MAGIC_BYTES)
    while place >= 0:
        if place % 4 == 0:
            parts.append(payload[start:place])
            start = place + 4
        place = payload.find(_MAGIC_BYTES, place + 1)
    parts.append(payload[start:])
    cflags = [FIRST, *[MIDDLE] * (len(parts) - 2), LAST] if start else [WHOLE]
    framed = []
    for cflag, part in zip(cflags, parts):
        if len(part) >> LENGTH_BITS:
            raise ValueError(
                f"A RecordIO part holds less than 2^{LENGTH_BITS} bytes. Received: "
                f"a payload with a part of {len(part):,}"
            )
        framed += [PART.pack(MAGIC, cflag << LENGTH_BITS | len(part)), part]
        framed.append(bytes(-len(part) % 4))
    return b"".join(framed)


class RecordIOWriter:
    """Writes `train.rec`, `train.idx` and `property` as insightface lays them out.

    Images are keys 1..N grouped by identity; then follow one record per identity with
    its range of keys, and key 0 with the range of those. `train.names.json`, which
    other readers pass over, has the names of the identities that have any. An
    interrupted try is continued: its last records that are not listed yet are cut off.

    Args:
        root: The folder, which exists and holds nothing or an earlier try.
        labels: int array `(n,)` of all images in the order they will be added, values
            0..C-1, never falling.
        names: What each identity is called, by label; empty for numbers.

    Attributes:
        count: Images written so far, those of an earlier try included.
    """

    def __init__(self, root, labels, names=()):
        self._root = pathlib.Path(root)
        self._labels, self._names = labels, names
        rec, idx = self._root / "train.rec", self._root / "train.idx"
        self.count, end = _resume(rec, idx, len(labels))
        self._rec = open(rec, "ab")
        self._idx = open(idx, "ab")
        self._end = self._synced = end
        self._lines = []

    def add(self, image: bytes) -> None:
        """Writes the next image."""
        key = self.count + 1
        header = HEADER.pack(0, self._labels[self.count], key, 0)
        self._write(key, header + image)
        self.count = key

    def _write(self, key, payload):
        framed = frame(payload)
        self._rec.write(framed)
        self._lines.append(f"{key}\t{self._end}\n")
        self._end += len(framed)
        if self._end - self._synced >= _SYNC_BYTES:
            self._sync()

    def _sync(self):
        # A record is listed only once it is on disk.
        _flush(self._rec)
        self._idx.write("".join(self._lines).encode())
        _flush(self._idx)
        self._lines = []
        self._synced = self._end

    def finish(self, image_size) -> None:
        """Writes what follows the images: `(height, width)` is of the first one."""
        count = len(self._labels)
        starts = np.flatnonzero(np.diff(self._labels, prepend=-1)) + 1
        stops = [*starts[1:], count + 1]
        for key, span in enumerate(zip(starts, stops), count + 1):
            self._write(key, _range_record(key, span))
        self._write(0, _range_record(0, (count + 1, count + 1 + len(starts))))
        self._sync()
        text = f"{len(starts)},{image_size[0]},{image_size[1]}"
        write_text(self._root / "property", text)
        if self._names and self._names != [*map(str, range(len(starts)))]:
            text = json.dumps(self._names, indent=0)
            write_text(self._root / f"train{NAMES_SUFFIX}", text)
        self.close()

    def close(self) -> None:
        """Closes the files, finished or not."""
        self._rec.close()
        self._idx.close()


def _range_record(key, span):
    """The payload of a record without an image: two labels, a range of keys."""
    return HEADER.pack(2, 0, key, 0) + struct.pack("<2f", *span)


def _resume(rec, idx, limit):
    """Cuts an earlier try back to whole records; returns their number and end."""
    text = idx.read_bytes() if idx.exists() else b""
    lines = text.split(b"\n")[:-1][:limit]
    end = 0
    if lines:
        _, end = read_record(PositionedFile(rec), int(lines[-1].split(b"\t")[1]))
    for path, size in ((rec, end), (idx, sum(len(line) + 1 for line in lines))):
        with open(path, "ab") as file:
            file.truncate(size)
    return len(lines), end


def _flush(file):
    file.flush()
    os.fsync(file.fileno())


def record_offsets(file: PositionedFile, count: int) -> list[int]:
    """Returns where the `count` records of a file begin, without reading their data."""
    offsets, at = [], 0
    while at < file.size:
        offsets.append(at)
        at += HEAD.size + record_length(file, at) + CHECKSUM.size
    if at != file.size or len(offsets) != count:
        raise ValueError(
            f"{file.path} holds {len(offsets):,} records to byte {at:,} of "
            f"{file.size:,}, not {count:,}. Delete it and convert again"
        )
    return offsets


class ShardedWriter:
    """Writes `shard_size` images a file, the last one fewer.

    A shard gets its name when it is whole; an interrupted try resumes at the first
    that is not. Arguments and `count` are those of `RecordIOWriter`, but labels may
    fall. A subclass defines `record`, which makes the bytes of the image `count`.
    """

    suffix = ""
    # What a shard ends with.
    end = b""

    def __init__(self, root, labels, shard_size: int):
        self._labels = labels
        self._starts = [*range(0, len(labels), shard_size), len(labels)]
        shards = len(self._starts) - 1
        self._paths = [
            pathlib.Path(root) / f"faces-{k:05d}-of-{shards:05d}{self.suffix}"
            for k in range(shards)
        ]
        self._shard = 0
        while self._shard < shards and self._paths[self._shard].exists():
            self._shard += 1
        self.count = self._starts[self._shard]
        self._file = None

    def add(self, image: bytes) -> None:
        """Writes the next image."""
        path = self._paths[self._shard]
        part = path.with_name(path.name + ".part")
        if self._file is None:
            self._file = open(part, "wb")
        self._file.write(self.record(image, int(self._labels[self.count])))
        self.count += 1
        if self.count == self._starts[self._shard + 1]:
            self._file.write(self.end)
            _flush(self._file)
            self.close()
            os.replace(part, path)
            self._shard += 1

    def finish(self, image_size) -> None:
        """Writes what belongs to all shards."""

    def close(self) -> None:
        """Closes the open shard, finished or not."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()


class TFRecordWriter(ShardedWriter):
    """Writes TFRecord shards of Examples and `index.json`."""

    suffix = ".tfrecord"

    def record(self, image: bytes, label: int) -> bytes:
        """Returns the frame of an Example."""
        features = {
            "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
            "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        }
        example = tf.train.Example(features=tf.train.Features(feature=features))
        data = example.SerializeToString(deterministic=True)
        length = struct.pack("<Q", len(data))
        head = HEAD.pack(len(data), masked_crc32c(length))
        return head + data + CHECKSUM.pack(masked_crc32c(data))

    def finish(self, image_size) -> None:
        """Writes the index: `(height, width)` is of the first image."""
        shards = []
        for path, start, stop in zip(self._paths, self._starts, self._starts[1:]):
            file = PositionedFile(path)
            shards.append(
                {
                    "file": path.name,
                    "count": stop - start,
                    "bytes": file.size,
                    "offsets": pack(record_offsets(file, stop - start), "<i8"),
                    "labels": pack(self._labels[start:stop], "<i4"),
                }
            )
        index = {
            "format": FORMAT,
            "count": len(self._labels),
            "identities": int(self._labels.max()) + 1,
            "image_size": list(image_size),
            "shards": shards,
        }
        write_text(self._paths[0].with_name(INDEX_FILE), json.dumps(index, indent=1))


class WebDatasetWriter(ShardedWriter):
    """Writes WebDataset shards: tar files of `KEY.jpg` and `KEY.cls`.

    A key is the number of the image. The suffix is that of the image's own format, so
    that nothing is encoded again.
    """

    suffix = ".tar"
    end = bytes(2 * BLOCK)

    def record(self, image: bytes, label: int) -> bytes:
        """Returns both members of a sample."""
        key = f"{self.count:09d}"
        members = [(f"{key}.{_suffix_of(image)}", image), (f"{key}.cls", b"%d" % label)]
        parts = []
        for name, data in members:
            about = tarfile.TarInfo(name)
            about.size, about.mode = len(data), 0o644
            padding = bytes(-len(data) % BLOCK)
            parts += [about.tobuf(tarfile.USTAR_FORMAT), data, padding]
        return b"".join(parts)


def _suffix_of(image):
    """Returns the suffix of the format that the bytes of an image begin as."""
    for suffix, start in (("png", b"\x89PNG"), ("webp", b"RIFF"), ("bmp", b"BM")):
        if image.startswith(start):
            return suffix
    return "jpg"


def pack(values, dtype: str) -> str:
    """Returns an array as text: base64 of zlib of its little-endian bytes."""
    raw = np.ascontiguousarray(values, dtype)
    return base64.b64encode(zlib.compress(raw, 1)).decode("ascii")
