"""The training sets of insightface: MXNet RecordIO without MXNet.

    part := u32 0xced7230a | u32 (cflag << 29 | length) | data | zeros to 4 bytes

little-endian. A payload that holds the magic number where a reader looks for it, at a
position divisible by 4, is split there and the number left out: the first part has
cflag 1, middle ones 2, the last 3. All others are one part with cflag 0. The format is
that of dmlc-core `src/recordio.cc`.
"""

from __future__ import annotations

import array
import json
import os
import pathlib
import re
import struct

import numpy as np
from absl import logging

from ekd_tf.data.source import MAX_LABEL
from ekd_tf.data.source import number_identities
from ekd_tf.data.sources.records import Records
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.files.index_cache import IndexCache
from ekd_tf.files.positioned import PositionedFile
from ekd_tf.files.positioned import read_file
from ekd_tf.files.positioned import reason_of
from ekd_tf.files.positioned import unreadable_file

MAGIC = 0xCED7230A
WHOLE, FIRST, MIDDLE, LAST = range(4)
LENGTH_BITS = 29
PART = struct.Struct("<II")
# flag, label, id, id2, little-endian without gaps; flag > 0 labels follow.
HEADER = struct.Struct("<IfQQ")
# Of the file of names, a JSON list, that other readers of such sets pass over.
NAMES_SUFFIX = ".names.json"

_MAGIC_BYTES = struct.pack("<I", MAGIC)
_MAGIC_FINDER = re.compile(re.escape(_MAGIC_BYTES))
_SCAN_BYTES = 1 << 22


def read_record(file: PositionedFile, offset: int) -> tuple[bytes, int]:
    """Returns the payload of the record at `offset`, and where the next one begins."""
    parts: list[bytes] = []
    at = offset
    while True:
        head = file.read(at, PART.size)
        if len(head) < PART.size:
            raise file.damage(offset, f"the file ends at byte {at + len(head)}")
        magic, word = PART.unpack(head)
        cflag, length = divmod(word, 1 << LENGTH_BITS)
        if magic != MAGIC:
            reason = f"{magic:#010x} at byte {at} is not the magic number {MAGIC:#010x}"
            raise file.damage(offset, reason)
        if cflag not in ((MIDDLE, LAST) if parts else (WHOLE, FIRST)):
            where = "within it" if parts else "at its begin"
            raise file.damage(offset, f"cflag {cflag} at byte {at}, {where}")
        at += PART.size
        data = file.read(at, length)
        if len(data) < length:
            end = at + len(data)
            reason = f"it has {length} bytes and the file ends at byte {end}"
            raise file.damage(offset, reason)
        if any(k.start() % 4 == 0 for k in _MAGIC_FINDER.finditer(data)):
            reason = (
                f"its {length} bytes hold a record that begins: the length is wrong"
            )
            raise file.damage(offset, reason)
        at += length + -length % 4
        parts.append(data)
        if cflag in (WHOLE, LAST):
            return _MAGIC_BYTES.join(parts), at


def _try_record(file, offset):
    """Returns `(payload, end)`, or `(error, None)` of a damaged record."""
    try:
        return read_record(file, offset)
    except ValueError as error:
        return error, None


def _walk(file):
    """Yields `(offset, payload or error)` of each record of a file without index."""
    offset = 0
    while offset < file.size:
        payload, end = _try_record(file, offset)
        yield offset, payload
        offset = end or _resynchronise(file, offset + 4)


def _resynchronise(file, offset):
    """Returns the next aligned magic number that may begin a whole record."""
    for start in range(offset, file.size, _SCAN_BYTES):
        block = file.read(start, _SCAN_BYTES)
        for match in _MAGIC_FINDER.finditer(block):
            at = start + match.start()
            head = file.read(at, PART.size)
            if at % 4 or len(head) < PART.size:
                continue
            cflag, length = divmod(PART.unpack(head)[1], 1 << LENGTH_BITS)
            if cflag <= FIRST and at + PART.size + length <= file.size:
                return at
    return file.size


def _listed(file, idx, allowed):
    """Yields `(offset, payload or error)` of each record an idx lists."""
    offsets = _read_idx(idx)
    outside = int(np.count_nonzero(offsets > file.size - PART.size))
    if outside > allowed:
        raise ValueError(
            f"{idx.path} lists {outside:,} of {len(offsets):,} records beyond the end "
            f"of {file.path}, which has {file.size:,} bytes: the file was cut or the "
            "two do not belong together. Copy both again"
        )
    last = 0
    for offset in offsets.tolist():
        payload, end = _try_record(file, offset)
        last = max(last, end or 0)
        yield offset, payload
    if last < file.size:
        logging.warning(
            "%s: its records end at byte %d of the %d of %s; what follows is not used",
            *(idx.path, last, file.size, file.path),
        )


def _read_idx(idx):
    """Returns the offsets of lines `key<tab>offset`, int64, in their order."""
    way_out = "Copy it again, or delete it: the .rec file can be read without"
    offsets = array.array("q")
    with open(idx.path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            match = re.fullmatch(rb"\d+\t(\d{1,18})\r?\n?", line)
            if not match:
                raise ValueError(
                    f"{idx.path}: line {number} is not key<tab>offset but "
                    f"{line.strip()[:60]!r}. {way_out}"
                )
            offsets.append(int(match[1]))
    if not offsets:
        raise ValueError(f"{idx.path} is empty. {way_out}")
    return np.asarray(offsets, np.int64)


def _unpack(payload):
    """Splits a payload into label and encoded image; of records without one, None."""
    flag, label, _, _ = HEADER.unpack_from(payload.ljust(HEADER.size))
    start = HEADER.size + 4 * flag
    if len(payload) < max(start, HEADER.size):
        raise ValueError(f"its {len(payload)} bytes are fewer than its header says")
    image = payload[start:]
    if flag:
        if not image:
            return None, image
        (label,) = struct.unpack_from("<f", payload, HEADER.size)
    # NaN fails every comparison.
    if not (0 <= label < MAX_LABEL and label.is_integer()):
        raise ValueError(
            f"its label is {label:.10g}. Labels must be integers in [0, 2^24): "
            "float32, which RecordIO stores, rounds larger ones. Number the "
            "identities from 0 and convert again"
        )
    return int(label), image


def _read_index(file, idx, unreadable):
    """Reads every record once; returns offsets and labels of images, and the damage.

    A damaged record is left out, since nothing says whose image it was.
    """
    offsets, labels, damage = array.array("q"), array.array("i"), []
    listed = _walk(file) if idx is None else _listed(file, idx, unreadable.allowed)
    for offset, payload in listed:
        try:
            if isinstance(payload, ValueError):
                raise payload
            label, _ = _unpack(payload)
        except ValueError as error:
            place = file.place(offset)
            reason = str(error).removeprefix(f"{place}: ")
            damage.append(unreadable.count(place, reason))
            continue
        if label is not None:
            offsets.append(offset)
            labels.append(label)
    if not labels:
        raise ValueError(
            f"{file.path} holds no image that can be read. Copy or convert it again"
        )
    return np.asarray(offsets, np.int64), np.asarray(labels, np.int32), damage


def _read_names(path, numbers, is_whole):
    """Returns the names of a set's identities, or their numbers where it has none."""
    file = path.with_suffix(NAMES_SUFFIX)
    if not file.exists():
        return numbers
    way_out = "Copy it again, or delete it: people are numbers then"
    try:
        names = json.loads(read_file(str(file)))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{file} cannot be read: {reason_of(error)}. {way_out}"
        ) from error
    is_list = isinstance(names, list) and all(isinstance(n, str) for n in names)
    if not is_list or len(set(names)) < len(names):
        raise ValueError(f"{file} must be a JSON list of distinct names. {way_out}")
    # Of a damaged set an identity may be missing.
    if len(names) <= numbers[-1] or (is_whole and len(names) > len(numbers)):
        raise ValueError(
            f"{file} has {len(names):,} names, and {path} images of {len(numbers):,} "
            f"identities, the last of them number {numbers[-1]}. {way_out}"
        )
    return [names[number] for number in numbers]


class RecordIOFaces(Records):
    """Reads `train.rec` with or without `train.idx`.

    Labels are those of the image records, numbered 0..C-1 in their order; `identities`
    are the file's own, or their names where `train.names.json` lists them. The first
    start reads every record to find labels, and without an idx the records themselves.
    It keeps what it finds beside the file.

    Args:
        root: A folder with one `.rec` file or a `train.rec`, or a `.rec` file.
        cache_dir: Where to keep the index when the folder is read-only.
        unreadable: Counts the damaged records, which are left out.
    """

    kind = b"recordio"

    def __init__(
        self,
        root: str | os.PathLike,
        cache_dir: str | os.PathLike | None = None,
        unreadable: Unreadable | None = None,
    ):
        path = _rec_file(pathlib.Path(root))
        file, idx_path = PositionedFile(path), path.with_suffix(".idx")
        idx = PositionedFile(idx_path) if idx_path.exists() else None
        if idx is None:
            logging.warning("%s has no .idx: searching it for records", path)
        cache = IndexCache([file, *([idx] if idx else [])], cache_dir)
        arrays, damage = cache.load(["offsets", "labels", "identities"]), []
        if arrays is None:
            try:
                read = _read_index(file, idx, unreadable or Unreadable())
            except OSError as error:
                raise unreadable_file(path, error) from error
            offsets, labels, damage = read
            labels, identities = number_identities(labels)
            arrays = [offsets, labels, identities]
            # Otherwise the damage would go unsaid the next time.
            if not damage:
                cache.save(offsets=offsets, labels=labels, identities=identities)
        offsets, labels, self._numbers = arrays
        names = _read_names(path, self._numbers, not damage)
        super().__init__(str(path), [file], offsets, labels, names)
        self.left_out = tuple(damage)

    def read_one(self, index: int) -> bytes:
        payload, _ = read_record(*self.place(index))
        try:
            label, image = _unpack(payload)
        except ValueError as error:
            raise ValueError(f"{self.describe(index)}: {error}") from None
        expected = self._numbers[self.labels[index]]
        if label != expected:
            raise ValueError(
                f"{self.describe(index)}: its label is {label} and was {expected} when "
                "the index was read: the file has changed. Let nothing write to it and "
                "start again"
            )
        return image


def _rec_file(root):
    if not root.is_dir():
        # What is no file either is refused when it is opened.
        return root
    try:
        names = sorted(name for name in os.listdir(root) if name.endswith(".rec"))
    except OSError as error:
        raise unreadable_file(root, error) from error
    if len(names) != 1 and "train.rec" not in names:
        raise ValueError(
            f"{root} must hold one .rec file or a train.rec. Found: "
            f"{', '.join(names) or 'none'}. Give the path of the .rec file itself"
        )
    return root / ("train.rec" if "train.rec" in names else names[0])
