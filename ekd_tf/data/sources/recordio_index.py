"""Where the images of a RecordIO file are and whose, from every record's header."""

from __future__ import annotations

import array
import re
import struct
from collections.abc import Iterator

import numpy as np
from absl import logging

from ekd_tf.data.source import MAX_LABEL
from ekd_tf.data.sources.recordio_frame import LENGTH_BITS
from ekd_tf.data.sources.recordio_frame import MAGIC
from ekd_tf.data.sources.recordio_frame import PART
from ekd_tf.data.sources.recordio_frame import WHOLE
from ekd_tf.data.sources.recordio_frame import read_record
from ekd_tf.data.sources.recordio_frame import walk
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.files.positioned import PositionedFile

# flag, label, id, id2, little-endian without gaps; flag > 0 labels follow.
HEADER = struct.Struct("<IfQQ")
# The frame and the first half of the header.
_PLAIN = struct.Struct("<IIIf")
# Where the image of such a record begins.
_IMAGE = PART.size + HEADER.size

# Bytes of the file, and of the idx, looked at together.
_WINDOW = 1 << 22
_TEXT = 1 << 20
# Records looked at together, however short.
_ROWS = 1 << 15
# Frame, header and one label, in words of 4 bytes.
_HEAD_WORDS = (PART.size + HEADER.size + 4) // 4
_NAMED = 5
# Instead of a label.
_NO_IMAGE = -1
_DAMAGED = -2


def unpack(payload: bytes) -> tuple[float | None, bytes]:
    """Splits a payload into its label and the encoded image.

    The label is None for records of insightface that hold none: the header record and
    the identity records, whose labels are ranges of keys.

    Raises:
        ValueError: The payload is shorter than its header says.
    """
    if len(payload) >= HEADER.size:
        flag, label, _, _ = HEADER.unpack_from(payload)
        start = HEADER.size + 4 * flag
        if start <= len(payload):
            if flag:
                (label,) = struct.unpack_from("<f", payload, HEADER.size)
            image = payload[start:]
            return (None if flag and not image else label), image
    raise ValueError(f"its {len(payload)} bytes are fewer than its header says")


def unpack_plain(block: bytes, label: int) -> bytes | None:
    """Returns the image of a record of one part and one label, as nearly all are.

    None when `block` does not hold such a record of this label from its beginning to
    its end.
    """
    if len(block) < _PLAIN.size:
        return None
    magic, word, flag, found = _PLAIN.unpack_from(block)
    stop = PART.size + word
    # A word with a cflag other than that of whole records is a length beyond `block`.
    if magic != MAGIC or flag or found != label or not _IMAGE <= stop <= len(block):
        return None
    return block[_IMAGE:stop]


def build_index(
    file: PositionedFile,
    idx: PositionedFile | None,
    unreadable: Unreadable | None = None,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Reads every record's header once.

    With an idx a damaged record costs that record alone: the offset of the next is
    listed. Without one the file is searched for the next record, and whatever lies
    between counts as one. Either keeps its place in the index, with the label of the
    image before it (or after it, for the first), so that whoever reads it meets the
    damage and counts it.

    Args:
        file: The `.rec` file.
        idx: Its `.idx` file, or None.
        unreadable: Counts the damaged records. Default: none is allowed.

    Returns:
        `(offsets, labels, damaged)`: int64 and int32 `(n,)` of the images in the order
        of the idx or else of the file, and how many of them are damaged.

    Raises:
        UnreadableError: More records are damaged, or have a label that is no integer in
            [0, 2^24), than are allowed.
        ValueError: The idx is malformed, or there is no image.
    """
    damage = _Damage(file, unreadable or Unreadable())
    if idx is None:
        offsets, labels = _walk_labels(file, damage)
    else:
        offsets = read_idx(idx)
        labels = _listed_labels(file, idx, offsets, damage)
    images = labels != _NO_IMAGE
    offsets, labels = _compress(offsets, images), _compress(labels, images)
    if np.all(labels == _DAMAGED):
        raise ValueError(
            f"{file.path} holds no image that can be read. Copy or convert it again"
        )
    _guess_damaged(labels)
    return offsets, labels, damage.counted


class _Damage:
    """Counts the damaged records of a file; raises once there are too many."""

    def __init__(self, file, unreadable):
        self.counted = 0
        self.allowed = unreadable.allowed
        self._file = file
        self._unreadable = unreadable

    def count(self, offset, reason, way_out=None):
        """Counts one; `way_out` is what to do where copying does not mend it."""
        self.counted += 1
        # By its place alone, as whoever reads the record counts it once more.
        place = self._file.place(offset)
        reason = reason.removeprefix(f"{place}: ")
        self._unreadable.count(place, f"{reason}. {way_out}" if way_out else reason)


def _guess_damaged(labels):
    damaged = np.flatnonzero(labels == _DAMAGED)
    if len(damaged):
        known = np.flatnonzero(labels != _DAMAGED)
        before = np.maximum(np.searchsorted(known, damaged) - 1, 0)
        labels[damaged] = labels[known[before]]


def _compress(values, keep):
    """Returns `values[keep]` in the memory of `values`."""
    kept = 0
    for start in range(0, len(values), _ROWS):
        part = slice(start, start + _ROWS)
        chosen = values[part][keep[part]]
        values[kept : kept + len(chosen)] = chosen
        kept += len(chosen)
    return values[:kept]


def _walk_labels(file, damage):
    offsets, labels = array.array("q"), array.array("i")
    for offset, payload in walk(file):
        offsets.append(offset)
        if isinstance(payload, bytes):
            labels.append(_label(file, offset, payload, damage))
        else:
            damage.count(offset, payload)
            labels.append(_DAMAGED)
    return np.asarray(offsets, np.int64), np.asarray(labels, np.int32)


def _label(file, offset, payload, damage):
    try:
        label, _ = unpack(payload)
    except ValueError as error:
        damage.count(offset, str(error))
        return _DAMAGED
    if label is None:
        return _NO_IMAGE
    if not is_label(label):
        damage.count(
            offset,
            impossible_label(label),
            "Number the identities from 0 and convert again",
        )
        return _DAMAGED
    return int(label)


def impossible_label(label) -> str:
    """Returns what is wrong with a label that `is_label` refuses."""
    return (
        f"its label is {label:.10g}. Labels must be integers in [0, 2^24): float32, "
        "which RecordIO stores, rounds larger ones"
    )


def is_label(label):
    """Returns whether numbers, one or an array, can be labels."""
    # NaN fails every comparison.
    return (label >= 0) & (label < MAX_LABEL) & (label == np.floor(label))


def _listed_labels(file, idx, offsets, damage):
    """Returns the label of the record at each of `offsets`."""
    outside = int(np.count_nonzero(offsets > file.size - PART.size))
    if outside > damage.allowed:
        raise ValueError(
            f"{idx.path} lists {outside:,} of {len(offsets):,} records beyond the end "
            f"of {file.path}, which has {file.size:,} bytes: the file was cut or the "
            "two do not belong together. Copy both again"
        )
    labels = np.empty(len(offsets), np.int32)
    end = 0
    for rows, heads in _heads(file, offsets):
        cflag = heads[:, 1] >> LENGTH_BITS
        length = (heads[:, 1] & ((1 << LENGTH_BITS) - 1)).astype(np.int64)
        ends = offsets[rows] + PART.size + length
        flag = heads[:, 2].astype(np.int64)
        rest = length - HEADER.size - 4 * flag
        floats = heads.view("<f4")
        label = np.where(flag > 0, floats[:, 8], floats[:, 3])
        plain = (
            (heads[:, 0] == MAGIC)
            & (cflag == WHOLE)
            & (ends <= file.size)
            & (rest >= 0)
            & (offsets[rows] % 4 == 0)
        )
        image = (flag == 0) | (rest > 0)
        good = plain & image & is_label(label)
        found = np.where(good, label, _NO_IMAGE).astype(np.int32)
        # Records in parts, damaged ones and wrong labels, one by one.
        for k in np.flatnonzero(~good & ~(plain & ~image)):
            offset = int(offsets[rows][k])
            try:
                payload, ends[k] = read_record(file, offset)
            except ValueError as error:
                damage.count(offset, str(error))
                found[k] = _DAMAGED
            else:
                found[k] = _label(file, offset, payload, damage)
        labels[rows] = found
        end = max(end, int(ends[found != _DAMAGED].max(initial=0)))
    end += -end % 4
    if end < file.size:
        logging.warning(
            "%s: its records end at byte %d of the %d of %s; what follows is not used",
            *(idx.path, end, file.size, file.path),
        )
    return labels


def _heads(file, offsets) -> Iterator[tuple]:
    """Yields `(rows, words)`, words uint32 `(k, 9)` of the records at offsets[rows]."""
    order = None
    if np.any(offsets[1:] < offsets[:-1]):
        order = np.argsort(offsets, kind="stable")
        offsets = offsets[order]
    first = 0
    while first < len(offsets):
        base = int(offsets[first]) // 4 * 4
        stop = int(np.searchsorted(offsets, base + _WINDOW))
        stop = min(stop, first + _ROWS)
        words = np.zeros((offsets[stop - 1] - base) // 4 + _HEAD_WORDS, "<u4")
        block = np.frombuffer(file.read(base, words.nbytes), np.uint8)
        words.view(np.uint8)[: len(block)] = block
        places = (offsets[first:stop] - base) // 4
        rows = slice(first, stop) if order is None else order[first:stop]
        yield rows, words[places[:, None] + np.arange(_HEAD_WORDS)]
        first = stop


def read_idx(idx: PositionedFile) -> np.ndarray:
    """Reads the offsets of an idx, lines `key<tab>offset`, in the order of the lines.

    Returns:
        int64 `(n,)`.

    Raises:
        ValueError: A line is anything else; the message names it.
    """
    offsets = array.array("q")
    at, rest = 0, b""
    while at < idx.size:
        text = idx.read(at, _TEXT)
        if not text:
            break
        at += len(text)
        lines, newline, rest = (rest + text).rpartition(b"\n")
        offsets.frombytes(_offsets(idx, len(offsets), lines + newline).tobytes())
    offsets.frombytes(_offsets(idx, len(offsets), rest).tobytes())
    if not offsets:
        raise ValueError(
            f"{idx.path} is empty. Copy it again, or delete it: the .rec file can be "
            "read without"
        )
    return np.asarray(offsets, np.int64)


def _offsets(idx, before, text):
    """Returns the second number of each line."""
    text = text.replace(b"\r\n", b"\n")
    if text and not text.endswith(b"\n"):
        text += b"\n"
    characters = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero((characters < ord("0")) | (characters > ord("9")))
    is_list = (
        len(ends) % 2 == 0
        and np.all(characters[ends[0::2]] == ord("\t"))
        and np.all(characters[ends[1::2]] == ord("\n"))
        and np.all(np.diff(ends, prepend=-1) > 1)
    )
    if is_list:
        return np.fromstring(text, np.int64, sep=" ")[1::2]
    lines = text.split(b"\n")[:-1]
    wrong = [not re.fullmatch(rb"\d+\t\d+", line) for line in lines].index(True)
    raise ValueError(
        f"{idx.path}: line {before + wrong + 1} is not key<tab>offset but "
        f"{lines[wrong][:60]!r}. Copy it again, or delete it: the .rec file can be "
        "read without"
    )
