"""Faces in sharded TFRecord files that are read by position.

    record := u64 length | u32 masked crc32c of it | data | u32 masked crc32c of data

little-endian; the format is that of TensorFlow's `io/record_writer.cc`. TensorFlow's
own reader goes through a file from the start; batches of chosen images need any record.
"""

from __future__ import annotations

import base64
import hashlib
import json
import pathlib
import struct
import zlib

import google_crc32c
import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from ekd_tf.data.source import Source
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.files.positioned import PositionedFile

INDEX_FILE = "index.json"
FORMAT = "ekd_tf tfrecord 1"
# Bytes of the largest record that is read at once.
_MOST = 1 << 20
_ROWS = 1 << 15
_HEAD = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_FIRST_READ = 8192


def unpack(text: str, dtype: str) -> np.ndarray:
    """Returns an array of base64 of zlib of its little-endian bytes."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype)


def read_example(
    file: PositionedFile, offset: int, size: int = _FIRST_READ
) -> tuple[bytes, int | None]:
    """Reads the Example that begins at `offset`.

    Args:
        file: The file.
        offset: Where the record begins.
        size: Bytes to read at once, the size of the record where it is known.

    Returns:
        `(image, label)`: the bytes feature `image` and the int64 feature `label`, None
        where it has none.

    Raises:
        ValueError: There is no whole record, or not of such an Example; the message
            names file and offset.
        OSError: The file cannot be read.
    """
    block = file.read(offset, size)
    length = _length(file, offset, block)
    stop = _HEAD.size + length
    end = stop + _CHECKSUM.size
    if len(block) < end:
        block += file.read(offset + len(block), end - len(block))
    if len(block) < end:
        got = len(block) - _HEAD.size
        reason = f"it has {length} bytes and the file ends after {got} of them"
        raise file.damage(offset, reason)
    data = block[_HEAD.size : stop]
    if _CHECKSUM.unpack_from(block, stop)[0] != masked_crc32c(data):
        raise file.damage(offset, "the checksum of its data is wrong")
    try:
        features = tf.train.Example.FromString(data).features.feature
        (image,) = features["image"].bytes_list.value
        labels = features["label"].int64_list.value
    except (DecodeError, ValueError):
        reason = "it is no tf.train.Example with one bytes feature image"
        raise file.damage(offset, reason) from None
    return image, labels[0] if labels else None


def masked_crc32c(data: bytes) -> int:
    """Returns the checksum TFRecord files hold of `data`: Castagnoli's, rotated."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def record_offsets(file: PositionedFile, count: int) -> list[int]:
    """Returns where the records of a file begin, without reading their data.

    Raises:
        ValueError: The file does not consist of `count` whole records.
    """
    offsets, at = [], 0
    while at < file.size:
        offsets.append(at)
        length = _length(file, at, file.read(at, _HEAD.size))
        at += _HEAD.size + length + _CHECKSUM.size
    if at != file.size or len(offsets) != count:
        raise ValueError(
            f"{file.path} holds {len(offsets):,} records to byte {at:,} of "
            f"{file.size:,}, not {count:,}. Delete it and convert again"
        )
    return offsets


def _length(file, offset, block):
    if len(block) < _HEAD.size:
        raise file.damage(offset, "the file ends before its length")
    length, checksum = _HEAD.unpack_from(block)
    if checksum != masked_crc32c(block[:8]):
        raise file.damage(offset, "the checksum of its length is wrong")
    return length


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
        return np.where(known & (sizes <= _MOST), sizes, _FIRST_READ)

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
