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
from ekd_tf.data.unreadable import UnreadableError
from ekd_tf.files.index_cache import IndexCache
from ekd_tf.files.positioned import open_all
from ekd_tf.files.positioned import unreadable_file

IMAGES = (b"jpg", b"jpeg", b"png", b"webp", b"bmp")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_NUMBERED = re.compile(r"(.*-)(\d+)(-of-)(\d+)\.tar")
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
        cache_dir: Where to keep the index when the folder is read-only, or None.
        unreadable: Counts samples whose label is missing or wrong, which are left out,
            and damage of an archive, with which its shard ends; none is allowed by
            default.
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
        arrays = cache.load([key + name for name in names])
        if arrays is None:
            index = _read_index(files, label, unreadable or Unreadable())
            arrays = index.arrays()
            # Otherwise the damage would go unsaid the next time.
            if not index.damaged:
                cache.save(**{key + n: values for n, values in zip(names, arrays)})
        offsets, self._sizes, shard, labels, identities = arrays
        super().__init__(str(shards), files, offsets, labels, identities, shard)

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
            f"{''.join(pathlib.Path(paths[0]).suffixes[-1:])}"
        )
    return paths


def _check_complete(paths):
    """Refuses a folder without a shard that names like `a-00002-of-00005.tar` count."""
    counted = {
        match[1] + str(number).zfill(len(match[2])) + match[3] + match[4] + ".tar"
        for match in filter(None, map(_NUMBERED.fullmatch, paths))
        for number in range(int(match[4]))
    }
    missing = sorted(counted.difference(paths))
    if missing:
        raise ValueError(
            f"{missing[0]} is missing, by the names of the others. Copy it, or name "
            "the shards by a pattern"
        )


class _Index:
    """Arrays that grow by one image at a time."""

    def __init__(self):
        self.offsets, self.sizes = array.array("q"), array.array("q")
        self.shards, self.codes = array.array("i"), array.array("i")
        self.code_of: dict[Any, int] = {}
        self.damaged = 0

    def add(self, shard, offset, size, label):
        self.offsets.append(offset)
        self.sizes.append(size)
        self.shards.append(shard)
        self.codes.append(self.code_of.setdefault(label, len(self.code_of)))

    def arrays(self):
        """Returns offsets, sizes, shards, labels 0..C-1, and the labels of the set."""
        labels, number = np.unique(list(self.code_of), return_inverse=True)
        return [
            np.asarray(self.offsets, np.int64),
            np.asarray(self.sizes, np.int64),
            np.asarray(self.shards, np.int32),
            number.astype(np.int32)[np.asarray(self.codes)],
            labels,
        ]


def _read_index(files, field, unreadable):
    index = _Index()
    for shard, file in enumerate(files):
        try:
            _read_shard(file, shard, field, index, unreadable)
        except OSError as error:
            raise unreadable_file(file.path, error) from error
    if not index.offsets:
        raise ValueError(
            f"{files[0].path}: its samples hold no image, KEY.jpg, .jpeg, .png, "
            ".webp or .bmp beside KEY.cls"
        )
    if len({type(label) for label in index.code_of}) > 1:
        raise ValueError(f"{files[0].path}: labels are numbers here and texts there")
    return index


def _read_shard(file, shard, field, index, unreadable):
    """Adds the samples of a shard that are whole, and counts those that are not.

    At damage of the archive itself the shard ends.
    """
    wanted = b"json" if field else b"cls"
    key, image, label = None, None, None

    def count(error):
        index.damaged += 1
        at, _, reason = str(error).removeprefix(f"{file.path}: ").partition(": ")
        unreadable.count(f"{file.path}: {at}", reason)

    def finish():
        if image is None:
            return
        if label is None:
            reason = (
                f"{key.decode(errors='replace')} has an image and no "
                f".{wanted.decode()} member behind or before it; labels of .json "
                "members: --data=webdataset:...,label=FIELD; members of a sample must "
                "be neighbours: tar --sort=name"
            )
            return count(file.damage(image[0], reason))
        if isinstance(label, ValueError):
            return count(label)
        index.add(shard, *image, label)

    try:
        for name, offset, size, data in tar_members(file):
            start = name.rfind(b"/") + 1
            dot = name.find(b".", start)
            if dot < 0 or name.startswith(b".", start):
                continue
            stem, suffix = name[:dot], name[name.rfind(b".") + 1 :].lower()
            if stem != key:
                finish()
                key, image, label = stem, None, None
            if offset + size > file.size:
                # The damage that ends the shard; the sample is not whole.
                image = None
            elif suffix in IMAGES and image is None:
                image = offset, size
            elif suffix == wanted:
                if len(data) < size:
                    data = file.read(offset, size)
                try:
                    label = _label(file, offset, data, field)
                except ValueError as error:
                    label = error
    except UnreadableError:
        # Counted already.
        raise
    except ValueError as error:
        # Of the sample before, all may be there.
        if label is not None:
            finish()
        count(error)
    else:
        finish()


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
