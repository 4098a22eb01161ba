"""TFace's training sets: a text index of images in a folder or in TFRecord files."""

from __future__ import annotations

import array
import os

import numpy as np

from ekd_tf.data.source import MAX_LABEL
from ekd_tf.data.source import Source
from ekd_tf.data.source import number_identities
from ekd_tf.data.sources.files import Files
from ekd_tf.data.sources.tfrecord import ShardedExamples
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.files.positioned import PositionedFile
from ekd_tf.files.positioned import open_all
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

    Paths and names are relative to `root`, by default the folder of the index. Records
    beyond the end of their file are counted in `unreadable` and stay in the source:
    reading one raises.
    """
    path, unreadable = os.fspath(index), unreadable or Unreadable()
    root = os.path.dirname(path) if root is None else os.fspath(root)
    names, labels = [], array.array("i")
    shards, offsets = array.array("i"), array.array("q")
    files: dict[str, tuple[int, PositionedFile]] = {}
    for number, name, place, label in _lines(path):
        labels.append(label)
        if not place:
            names.append(name)
            continue
        shard, offset = place
        name = os.fsdecode(name)
        name = os.path.join(name, f"{name}-{shard:05d}.tfrecord")
        if name not in files:
            (opened,) = open_all([os.path.join(root, name)])
            files[name] = len(files), opened
        position, file = files[name]
        shards.append(position)
        offsets.append(offset)
        if not 0 <= offset < file.size:
            reason = (
                f"{path}: line {number} lists a record at offset {offset} of "
                f"{file.path}, which has {file.size:,} bytes: the file was cut or is "
                "another. Copy both again"
            )
            if offset < 0:
                raise ValueError(reason)
            unreadable.count(file.place(offset), reason)
    if not labels:
        raise ValueError(f"{path} lists no image. Give TFace's index file")
    numbered, identities = number_identities(np.asarray(labels, np.int32))
    if names:
        source = Files(path, root, np.array(names), numbered, identities)
        source.hashed = numbered.tobytes()
        return source
    return ShardedExamples(
        path,
        [file for _, file in files.values()],
        np.asarray(offsets, np.int64),
        numbered,
        identities,
        np.asarray(shards, np.int32),
    )


def _lines(path):
    """Yields number, name, () or (shard, offset), and label of each line."""
    count = None
    with open_bytes(path) as lines:
        for number, line in enumerate(lines, 1):
            name, *numbers = line.rstrip(b"\r\n").split(b"\t")
            count = count or len(numbers)
            try:
                *place, label = map(int, numbers)
                is_right = count in (1, 3) and len(numbers) == count
            except ValueError:
                is_right = False
            if not is_right or max(map(abs, (0, *place))) >= 1 << 62:
                raise ValueError(
                    f"{path}: line {number} must be path, label or name, shard, "
                    "offset, label, separated by tabs, all lines alike. Received: "
                    f"{line[:80]!r}"
                )
            if not 0 <= label < MAX_LABEL:
                raise ValueError(
                    f"{path}: line {number} has the label {label}. Labels must be in "
                    "[0, 2^24): number the identities from 0"
                )
            yield number, name, place, label
