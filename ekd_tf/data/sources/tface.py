"""TFace's training sets: a text index of images in a folder or in TFRecord files."""

from __future__ import annotations

import array
import os

import numpy as np

from ekd_tf.data.source import MAX_LABEL
from ekd_tf.data.source import Source
from ekd_tf.data.source import number_identities
from ekd_tf.data.sources.files import Files
from ekd_tf.data.sources.files import PackedNames
from ekd_tf.data.sources.tfrecord import ShardedExamples
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.files.positioned import PositionedFile
from ekd_tf.files.user_text import open_bytes


def read_tface(
    index: str | os.PathLike,
    root: str | os.PathLike | None = None,
    unreadable: Unreadable | None = None,
) -> Source:
    """Opens the images a TFace index lists.

    Its lines are `path<tab>label`, or `name<tab>shard<tab>offset<tab>label` for the
    record at an offset of `<root>/<name>/<name>-<shard, 5 digits>.tfrecord`, an Example
    with a bytes feature `image`. Labels are numbered 0..C-1 in their order.

    Args:
        index: The text file.
        root: What paths and names are relative to; the folder of `index` by default.
        unreadable: Counts the records that lie beyond the end of their file; none is
            allowed by default. They stay in the source: reading one raises.
    """
    # Refuses what cannot be read in the words all files are refused in.
    path = PositionedFile(index).path
    root = os.path.dirname(path) if root is None else os.fspath(root)
    with open_bytes(path) as lines:
        start = lines.tell()
        fields = len(lines.readline().split(b"\t"))
        lines.seek(start)
        if fields == 4:
            return _records(path, root, lines, unreadable or Unreadable())
        return _files(path, root, lines)


class ListedFiles(Files):
    """Image files listed in a text file; `numbers` are the list's of each label."""

    def __init__(
        self,
        name: str,
        root: str,
        names: PackedNames,
        labels: np.ndarray,
        numbers: np.ndarray,
    ):
        self.name = name
        self.labels = labels
        self.num_identities = len(numbers)
        self.hashed = labels.tobytes()
        self._numbers = numbers
        self._root = root
        self._names = names

    def identity_names(self) -> list[str]:
        return [str(number) for number in self._numbers.tolist()]

    def file_name(self, index: int) -> str:
        return self._names[index]

    def describe(self, index: int) -> str:
        return os.path.join(self._root, self._names[index])


def _files(path, root, lines):
    names, labels = PackedNames(), array.array("q")
    for number, line in enumerate(lines, 1):
        try:
            name, label = line.rstrip(b"\r\n").split(b"\t")
            labels.append(int(label))
        except (ValueError, OverflowError):
            raise _malformed(path, number, line) from None
        names.append(name)
    return ListedFiles(path, root, names, *_numbered(path, labels))


def _records(path, root, lines, unreadable):
    shards, offsets, labels = array.array("i"), array.array("q"), array.array("q")
    numbers, files = {}, []
    for number, line in enumerate(lines, 1):
        try:
            name, shard, offset, label = line.rstrip(b"\r\n").split(b"\t")
            key = name, int(shard)
            offsets.append(int(offset))
            labels.append(int(label))
        except (ValueError, OverflowError):
            raise _malformed(path, number, line) from None
        if key not in numbers:
            numbers[key] = len(files)
            name = os.fsdecode(name)
            shard_name = f"{name}-{key[1]:05d}.tfrecord"
            files.append(PositionedFile(os.path.join(root, name, shard_name)))
        shards.append(numbers[key])
        file, offset = files[shards[-1]], offsets[-1]
        if 0 <= offset < file.size:
            continue
        reason = (
            f"{path}: line {number} lists a record at offset {offset} of {file.path}, "
            f"which has {file.size:,} bytes: the file was cut or is another. Copy both "
            "again"
        )
        if offset < 0:
            raise ValueError(reason)
        unreadable.count(file.place(offset), reason)
    labels, numbers = _numbered(path, labels)
    shards, offsets = np.asarray(shards, np.int32), np.asarray(offsets, np.int64)
    return ShardedExamples(path, files, shards, offsets, labels, numbers)


def _numbered(path, labels):
    """Returns `(labels, numbers)`: labels 0..C-1, and what they were."""
    labels = np.asarray(labels, np.int64)
    if not len(labels):
        raise ValueError(f"{path} lists no image. Give TFace's index file")
    wrong = np.flatnonzero((labels < 0) | (labels >= MAX_LABEL))
    if len(wrong):
        raise ValueError(
            f"{path}: line {wrong[0] + 1} has the label {labels[wrong[0]]}. Labels "
            "must be in [0, 2^24): number the identities from 0"
        )
    return number_identities(labels)


def _malformed(path, number, line):
    return ValueError(
        f"{path}: line {number} must be path, label or name, shard, offset, label, "
        f"separated by tabs, all lines alike. Received: {line[:80]!r}"
    )
