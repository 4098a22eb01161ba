"""Faces in sharded TFRecord files that are read by position.

    record := u64 length | u32 masked crc32c of it | data | u32 masked crc32c of data

little-endian; the format is that of TensorFlow's `io/record_writer.cc`. TensorFlow's
own reader goes through a file from the start; batches of chosen images need any record.
"""

from __future__ import annotations

import base64
import json
import os
import pathlib
import struct
import zlib

import google_crc32c
import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from ekd_tf.data.sources.records import Records
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.files.positioned import PositionedFile
from ekd_tf.files.positioned import open_all

INDEX_FILE = "index.json"
FORMAT = "ekd_tf tfrecord 1"
HEAD = struct.Struct("<QI")
CHECKSUM = struct.Struct("<I")


def read_example(file: PositionedFile, offset: int) -> tuple[bytes, int | None]:
    """Returns bytes feature `image` and int64 feature `label`, or None, at `offset`."""
    length = record_length(file, offset)
    block = file.read(offset + HEAD.size, length + CHECKSUM.size)
    if len(block) < length + CHECKSUM.size:
        reason = f"it has {length} bytes and the file ends after {len(block)}"
        raise file.damage(offset, reason)
    data = block[:length]
    if CHECKSUM.unpack_from(block, length)[0] != masked_crc32c(data):
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


def record_length(file: PositionedFile, offset: int) -> int:
    """Returns the length of a record's data."""
    head = file.read(offset, HEAD.size)
    if len(head) < HEAD.size:
        raise file.damage(offset, "the file ends before its length")
    length, checksum = HEAD.unpack(head)
    if checksum != masked_crc32c(head[:8]):
        raise file.damage(offset, "the checksum of its length is wrong")
    return length


class ShardedExamples(Records):
    """Images in Examples of several TFRecord files."""

    kind = b"tfrecord"
    # Whether Examples hold the labels of `labels`.
    labelled = False

    def read_one(self, index: int) -> bytes:
        file, offset = self.place(index)
        image, label = read_example(file, offset)
        expected = self.labels[index]
        if self.labelled and label != expected:
            reason = f"its label is {label}, in the index {expected}"
            raise file.damage(offset, reason)
        return image


class TFRecordFaces(ShardedExamples):
    """Reads a folder `tools/convert_dataset.py --to=tfrecord` wrote.

    `index.json` tells count, identities and image size, and of each shard its file,
    count, size in bytes, and the offsets and labels of its records, see `unpack`.
    Records that a shard which was cut does not hold whole are counted in `unreadable`
    and stay in the source: reading one raises.
    """

    labelled = True

    def __init__(self, root: str | os.PathLike, unreadable: Unreadable | None = None):
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
            shards, shard_of_image, offsets, labels = _unpack_index(index)
        # What a foreign or damaged file makes of these.
        except (KeyError, TypeError, ValueError, zlib.error) as error:
            raise ValueError(
                f"{path} is not the index of a TFRecord set ({error!r}). Copy or "
                "convert it again"
            ) from None
        files = open_all(root / name for name, _ in shards)
        for number, (file, (_, size)) in enumerate(zip(files, shards)):
            if file.size == size:
                continue
            reason = (
                f"{file.path} has {file.size:,} bytes and {path} says {size:,}: it was "
                "cut or replaced. Copy the folder again"
            )
            begins = offsets[shard_of_image == number]
            lost = begins[np.append(begins[1:], size) > file.size]
            # A file that is longer holds all records, if they are these.
            for offset in lost if len(lost) else [file.size]:
                (unreadable or Unreadable()).count(file.place(int(offset)), reason)
        numbers = range(index["identities"])
        super().__init__(str(root), files, offsets, labels, numbers, shard_of_image)


def _unpack_index(index):
    """Returns `(name, bytes)` of each shard, and shard, offset, label of each image."""
    if index["format"] != FORMAT:
        raise ValueError(f"format {index['format']!r}, not {FORMAT!r}")
    shards, identities = index["shards"], index["identities"]
    counts = [shard["count"] for shard in shards]
    offsets = [unpack(shard["offsets"], "<i8") for shard in shards]
    labels = [unpack(shard["labels"], "<i4") for shard in shards]
    held = [[len(part) for part in parts] for parts in (offsets, labels)]
    if held != [counts, counts] or not sum(counts) == index["count"] > 0:
        raise ValueError(f"its shards do not hold {index['count']} images")
    number = np.arange(len(shards), dtype=np.min_scalar_type(len(shards)))
    all_labels = np.concatenate(labels)
    if all_labels.min() < 0 or all_labels.max() >= identities:
        raise ValueError(f"labels are not below {identities}")
    names = [(shard["file"], shard["bytes"]) for shard in shards]
    return names, np.repeat(number, counts), np.concatenate(offsets), all_labels


def unpack(text: str, dtype: str) -> np.ndarray:
    """Returns an array of base64 of zlib of its little-endian bytes."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype)
