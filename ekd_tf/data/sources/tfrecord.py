"""Faces in sharded TFRecord files that are read by position."""

from __future__ import annotations

import base64
import hashlib
import json
import pathlib
import zlib

import numpy as np

from ekd_tf.data.source import Source
from ekd_tf.data.sources.tfrecord_frame import FIRST_READ
from ekd_tf.data.sources.tfrecord_frame import read_example
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.files.positioned import PositionedFile

INDEX_FILE = "index.json"
FORMAT = "ekd_tf tfrecord 1"
# Bytes of the largest record that is read at once.
_MOST = 1 << 20
_ROWS = 1 << 15


def pack(values, dtype: str) -> str:
    """Returns an array as text: base64 of zlib of its little-endian bytes."""
    raw = np.ascontiguousarray(values, dtype)
    return base64.b64encode(zlib.compress(raw, 1)).decode("ascii")


def unpack(text: str, dtype: str) -> np.ndarray:
    """Returns the array `pack` was given."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype)


class ShardedExamples(Source):
    """Images in Examples of several TFRecord files, by file and offset.

    Args:
        name: What messages call the source.
        files: The files.
        shards: Integer array `(n,)` of any type: position in `files` of each image.
        offsets: int64 array `(n,)`: where its record begins.
        labels: int32 array `(n,)`, values 0..num_identities-1.
        numbers: Integer array `(num_identities,)`: what tells the identity of each
            label from others.
    """

    # Whether Examples hold the labels of `labels`.
    labelled = False

    def __init__(self, name, files, shards, offsets, labels, numbers):
        self.name = name
        self.labels = labels
        self.num_identities = len(numbers)
        self._numbers = numbers
        self._files = files
        self._shards = shards
        self._offsets = offsets

    @property
    def fingerprint(self) -> str:
        """A hash of every image's label and place, and of sizes and times of files."""
        digest = hashlib.sha256(b"tfrecord")
        for file in self._files:
            digest.update(b" " + file.state)
        for start in range(0, len(self), _ROWS):
            # Whatever type they are kept in.
            digest.update(self._shards[start : start + _ROWS].astype("<i4"))
        for values in (self._offsets, self.labels):
            digest.update(np.ascontiguousarray(values))
        return digest.hexdigest()

    def read(self, indices):
        indices = np.asarray(indices, np.int64)
        images = []
        # Plain numbers for the whole batch: one by one they take as long as reading.
        for shard, offset, size, expected in zip(
            self._shards[indices].tolist(),
            self._offsets[indices].tolist(),
            self._sizes(indices).tolist(),
            self.labels[indices].tolist(),
        ):
            file = self._files[shard]
            image, label = read_example(file, offset, size)
            if self.labelled and label != expected:
                reason = f"its label is {label}, in the index {expected}"
                raise file.damage(offset, reason)
            images.append(image)
        return images

    def _sizes(self, indices):
        """Returns how many bytes to read of each: to the next record, if it is near."""
        after = np.minimum(indices + 1, len(self) - 1)
        sizes = self._offsets[after] - self._offsets[indices]
        known = (self._shards[after] == self._shards[indices]) & (sizes > 0)
        return np.where(known & (sizes <= _MOST), sizes, FIRST_READ)

    def identity_names(self):
        return [str(number) for number in self._numbers]

    def describe(self, index: int) -> str:
        return self._files[self._shards[index]].place(int(self._offsets[index]))


class TFRecordFaces(ShardedExamples):
    """Reads a folder `tools/convert_dataset.py --to=tfrecord` wrote.

    `index.json` tells count, identities and image size, and of each shard its file,
    count, size in bytes, and the offsets and labels of its records: arrays of
    little-endian int64 and int32, compressed by zlib, in base64.

    Args:
        root: The folder.
        unreadable: Counts the records that lie beyond the end of a shard that was cut;
            none is allowed by default. They stay in the source: reading one raises.

    Raises:
        ValueError: The folder has no index, or a shard is missing or has another size
            than the index says.
    """

    labelled = True

    def __init__(self, root, unreadable: Unreadable | None = None):
        root = pathlib.Path(root)
        path = root / INDEX_FILE
        if not path.is_file():
            raise ValueError(
                f"{path} is missing: the folder is no TFRecord set of this package. "
                "Make one with tools/convert_dataset.py --to=tfrecord"
            )
        index_file = PositionedFile(path)
        try:
            index = json.loads(index_file.read(0, index_file.size))
            shards, *arrays = _unpack_index(index)
        # What a foreign or damaged file makes of these.
        except (KeyError, TypeError, ValueError, zlib.error) as error:
            raise ValueError(
                f"{path} is not the index of a TFRecord set ({error!r}). Copy or "
                "convert it again"
            ) from None
        files = [PositionedFile(root / name) for name, _ in shards]
        of_image, offsets, _ = arrays
        for number, (file, (_, size)) in enumerate(zip(files, shards)):
            if file.size == size:
                continue
            reason = (
                f"{file.path} has {file.size:,} bytes and {path} says {size:,}: it was "
                "cut or replaced. Copy the folder again"
            )
            lost = offsets[(of_image == number) & (offsets >= file.size)]
            # What is cut off of the last record in the file cannot be told from here.
            for offset in lost if len(lost) else [file.size]:
                (unreadable or Unreadable()).count(file.place(int(offset)), reason)
        super().__init__(str(root), files, *arrays, range(index["identities"]))


def pack_index(shards: list[dict], identities: int, image_size) -> dict:
    """Returns what `index.json` holds.

    Args:
        shards: Of each shard `file` (its name), `bytes`, and the arrays `offsets` and
            `labels` of its records.
        identities: Number of identities.
        image_size: `(height, width)` of the first image.
    """
    return {
        "format": FORMAT,
        "count": sum(len(shard["labels"]) for shard in shards),
        "identities": identities,
        "image_size": list(image_size),
        "shards": [
            {
                "file": shard["file"],
                "count": len(shard["labels"]),
                "bytes": shard["bytes"],
                "offsets": pack(shard["offsets"], "<i8"),
                "labels": pack(shard["labels"], "<i4"),
            }
            for shard in shards
        ],
    }


def _unpack_index(index):
    """Returns `(name, bytes)` of each shard, and shard, offset, label of each image."""
    if index["format"] != FORMAT:
        raise ValueError(f"format {index['format']!r}, not {FORMAT!r}")
    count = index["count"]
    shards = np.empty(count, np.min_scalar_type(len(index["shards"])))
    offsets = np.empty(count, np.int64)
    labels = np.empty(count, np.int32)
    at = 0
    for number, shard in enumerate(index["shards"]):
        part = slice(at, at + shard["count"])
        shards[part] = number
        # Taken out, so that text and arrays of all shards are never held together.
        offsets[part] = unpack(shard.pop("offsets"), "<i8")
        labels[part] = unpack(shard.pop("labels"), "<i4")
        at += shard["count"]
    if at != count or not count:
        raise ValueError(f"its shards hold {at} images, not {count}")
    if labels.min() < 0 or labels.max() >= index["identities"]:
        raise ValueError(f"labels are not below {index['identities']}")
    names = [(shard["file"], shard["bytes"]) for shard in index["shards"]]
    return names, shards, offsets, labels
