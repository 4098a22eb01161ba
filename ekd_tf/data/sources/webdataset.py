"""WebDataset: shards `NAME-0000.tar` of samples `KEY.jpg` and `KEY.cls`.

Members with one name before the first dot, one behind the other, are a sample. Shards
are read in place and in any order, which the WebDataset library does not do: a batch
stays a function of seed and step.
"""

from __future__ import annotations

import array
import json
import os
import pathlib
import re
from typing import Any

import numpy as np

from ekd_tf.data.source import MAX_LABEL
from ekd_tf.data.sources.records import Records
from ekd_tf.data.sources.tar import tar_members
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.files.index_cache import IndexCache
from ekd_tf.files.positioned import DamagedRecord
from ekd_tf.files.positioned import open_all
from ekd_tf.files.positioned import unreadable_file

IMAGES = (b"jpg", b"jpeg", b"png", b"webp", b"bmp")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_NUMBERED = re.compile(r"(.*-)(\d+)(-of-(\d+)\.tar)")
_PACKED = (".tar.gz", ".tgz")


class WebDatasetFaces(Records):
    """Reads the shards of a WebDataset.

    Labels are the decimal numbers of `.cls` members, or a field of `.json` members, a
    number or a text. They are numbered 0..C-1 in ascending order; `identities` are the
    set's own. The first start reads all headers, and keeps what it finds beside the
    first shard.

    Args:
        shards: A folder with `.tar` files, one such file, or a pattern of them,
            `DIR/NAME-{0000..0099}.tar`.
        label: The field of `.json` members, or "" for `.cls` members.
        cache_dir: Where to keep the index when the folder is read-only.
        unreadable: Counts samples whose label is missing or wrong and damaged headers,
            behind which the next whole one is looked for. Both are left out.
    """

    kind = b"webdataset"

    def __init__(
        self,
        shards: str | os.PathLike,
        label: str = "",
        cache_dir: str | os.PathLike | None = None,
        unreadable: Unreadable | None = None,
    ):
        files = open_all(_shard_paths(os.fspath(shards)))
        cache = IndexCache(files, cache_dir)
        names = ["offsets", "sizes", "shards", "labels", "identities"]
        # A field may be called cls, too.
        key = f"field_{label}_" if label else "cls_"
        names = [key + name for name in names]
        arrays, damage = cache.load(names), []
        if arrays is None:
            arrays, damage = _read_index(files, label, unreadable or Unreadable())
            # Otherwise the damage would go unsaid the next time.
            if not damage:
                cache.save(**dict(zip(names, arrays)))
        offsets, self._sizes, shard, labels, identities = arrays
        super().__init__(str(shards), files, offsets, labels, identities, shard)
        self.left_out = tuple(damage)

    def read_one(self, index: int) -> bytes:
        file, offset = self.place(index)
        size = int(self._sizes[index])
        data = file.read(offset, size)
        if len(data) < size:
            reason = f"it has {size} bytes and the file ends after {len(data)} of them"
            raise file.damage(offset, reason)
        return data


def _shard_paths(spec):
    """Returns the paths of the shards a folder, a file or a pattern names."""
    match = _RANGE.search(spec)
    if match and not os.path.exists(spec):
        first, last = match.groups()
        numbers = range(int(first), int(last) + 1)
        texts = [str(number).zfill(len(first)) for number in numbers]
        paths = [f"{spec[: match.start()]}{n}{spec[match.end() :]}" for n in texts]
    elif os.path.isdir(spec):
        try:
            names = sorted(os.listdir(spec))
        except OSError as error:
            raise unreadable_file(spec, error) from error
        # What is packed comes first, to be refused.
        paths = [os.path.join(spec, name) for name in names if name.endswith(_PACKED)]
        paths += [os.path.join(spec, name) for name in names if name.endswith(".tar")]
        _check_complete(paths)
    else:
        paths = [spec]
    if not paths:
        raise ValueError(
            f"{spec} holds no .tar file. Give the folder of the shards, or a pattern "
            "like DIR/train-{0000..0099}.tar"
        )
    if paths[0].endswith(_PACKED):
        folder = pathlib.Path(paths[0]).parent
        raise ValueError(
            f"{paths[0]} is compressed, and can only be read from its start. Make .tar "
            f"files of the shards, which encodes no image again: gunzip {folder}/*"
            f"{pathlib.Path(paths[0]).suffix}"
        )
    return paths


def _check_complete(paths):
    """Refuses a folder without a shard that names like `a-00002-of-00005.tar` count."""
    counted = {
        match[1] + str(number).zfill(len(match[2])) + match[3]
        for match in filter(None, map(_NUMBERED.fullmatch, paths))
        for number in range(int(match[4]))
    }
    missing = sorted(counted.difference(paths))
    if missing:
        raise ValueError(
            f"{missing[0]} is missing, by the names of the others. Copy it, or name "
            "the shards by a pattern"
        )


def _read_index(files, field, unreadable):
    """Returns the arrays of an index, in their order, and lines about the damage."""
    offsets, sizes = array.array("q"), array.array("q")
    shards, codes = array.array("i"), array.array("i")
    code_of: dict[Any, int] = {}
    damage = []
    for shard, file in enumerate(files):
        try:
            for sample in _samples(file, field):
                if isinstance(sample, ValueError):
                    reason = str(sample).removeprefix(f"{file.path}: ")
                    place, _, reason = reason.partition(": ")
                    line = unreadable.count(f"{file.path}: {place}", reason)
                    damage.append(line)
                    continue
                offset, size, label = sample
                offsets.append(offset)
                sizes.append(size)
                shards.append(shard)
                codes.append(code_of.setdefault(label, len(code_of)))
        except OSError as error:
            raise unreadable_file(file.path, error) from error
    if not offsets:
        raise ValueError(
            f"{files[0].path}: its samples hold no image, KEY.jpg, .jpeg, .png, "
            ".webp or .bmp beside KEY.cls"
        )
    if len({type(label) for label in code_of}) > 1:
        raise ValueError(f"{files[0].path}: labels are numbers here and texts there")
    labels, numbers = np.unique(list(code_of), return_inverse=True)
    numbers = numbers.astype(np.int32)[np.asarray(codes)]
    return [*map(np.asarray, (offsets, sizes, shards)), numbers, labels], damage


def _samples(file, field):
    """Yields offset, size, label of each whole sample of a shard, or what is wrong."""
    wanted = b"json" if field else b"cls"
    key, image, label = None, None, None

    def finished():
        if image is None:
            return
        if label is None:
            reason = (
                f"{key.decode(errors='replace')} has an image and no "
                f".{wanted.decode()} member behind or before it; labels of .json "
                "members: --data=webdataset:...,label=FIELD; members of a sample must "
                "be neighbours: tar --sort=name"
            )
            yield file.damage(image[0], reason)
        elif isinstance(label, ValueError):
            yield label
        else:
            yield *image, label

    for member in tar_members(file):
        if isinstance(member, DamagedRecord):
            # Of the sample before, all may be there.
            if label is not None:
                yield from finished()
            key, image, label = None, None, None
            yield member
            continue
        name, offset, size, data = member
        start = name.rfind(b"/") + 1
        dot = name.find(b".", start)
        if dot < 0 or name.startswith(b".", start):
            continue
        stem, suffix = name[:dot], name[name.rfind(b".") + 1 :].lower()
        if stem != key:
            yield from finished()
            key, image, label = stem, None, None
        if offset + size > file.size:
            # The damage that ends the shard; the sample is not whole.
            image = None
        elif suffix in IMAGES and image is None:
            image = offset, size
        elif suffix == wanted:
            if label is not None:
                # As all readers of the format take it: a key ends at the first dot.
                reason = (
                    f"{key.decode(errors='replace')} has two .{suffix.decode()} "
                    "members: names must have no dot but that before the ending"
                )
                label = file.damage(offset, reason)
                continue
            if len(data) < size:
                data = file.read(offset, size)
            try:
                label = _label(file, offset, data, field)
            except ValueError as error:
                label = error
    yield from finished()


def _label(file, offset, data, field):
    """Reads a label: a number, or the text of a JSON field."""
    try:
        value = json.loads(data)[field] if field else int(data)
    except (ValueError, TypeError, KeyError, RecursionError):
        wanted = f"JSON with the field {field!r}" if field else "a decimal number"
        raise file.damage(offset, f"its label {data[:40]!r} is not {wanted}") from None
    if isinstance(value, str) and value:
        return value
    if not isinstance(value, int) or isinstance(value, bool):
        raise file.damage(offset, f"its label {value!r} is no whole number nor a text")
    if not 0 <= value < MAX_LABEL:
        raise file.damage(offset, f"its label {value} is not in [0, 2^24)")
    return value
