"""The training sets of insightface: MXNet RecordIO without MXNet."""

from __future__ import annotations

import array
import hashlib
import os
import pathlib
import re
import struct

import numpy as np
from absl import logging

from ekd_tf.data.source import MAX_LABEL
from ekd_tf.data.source import Source
from ekd_tf.data.source import number_identities
from ekd_tf.data.sources.recordio_frame import PART
from ekd_tf.data.sources.recordio_frame import read_record
from ekd_tf.data.sources.recordio_frame import walk
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.files.index_cache import IndexCache
from ekd_tf.files.positioned import PositionedFile
from ekd_tf.files.positioned import unreadable as unreadable_file

# flag, label, id, id2, little-endian without gaps; flag > 0 labels follow.
HEADER = struct.Struct("<IfQQ")


def unpack(payload: bytes) -> tuple[int | None, bytes]:
    """Splits a payload into its label and the encoded image.

    The label is None for records of insightface that hold no image: the header record
    and the identity records, whose labels are ranges of keys. Raises `ValueError`.
    """
    if len(payload) < HEADER.size:
        raise ValueError(f"its {len(payload)} bytes are fewer than its header says")
    flag, label, _, _ = HEADER.unpack_from(payload)
    start = HEADER.size + 4 * flag
    if start > len(payload):
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


def build_index(
    file: PositionedFile,
    idx: PositionedFile | None,
    unreadable: Unreadable | None = None,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Reads every record once.

    With an idx a damaged record costs that record alone: the offset of the next is
    listed. Without one the file is searched for the next record, and whatever lies
    between counts as one. Either keeps its place in the index, with the label of the
    image before it (or after it, for the first), so that whoever reads it meets the
    damage and counts it.

    Returns:
        `(offsets, labels, damaged)`: int64 and int32 `(n,)` of the images in the order
        of the idx or else of the file, and how many of them are damaged.

    Raises:
        ValueError: More records are damaged than `unreadable` allows, the idx is
            malformed, or there is no image.
    """
    unreadable = unreadable or Unreadable()
    listed = walk(file) if idx is None else _listed(file, idx, unreadable.allowed)
    offsets, labels, damaged = array.array("q"), array.array("i"), 0
    for offset, payload in listed:
        try:
            if isinstance(payload, str):
                raise ValueError(payload)
            label, _ = unpack(payload)
            if label is None:
                continue
        except ValueError as error:
            damaged += 1
            # By its place alone, as whoever reads the record counts it once more.
            place = file.place(offset)
            unreadable.count(place, str(error).removeprefix(f"{place}: "))
            label = labels[-1] if labels else -1
        offsets.append(offset)
        labels.append(label)
    of_image = np.asarray(labels, np.int32)
    if of_image.max(initial=-1) < 0:
        raise ValueError(
            f"{file.path} holds no image that can be read. Copy or convert it again"
        )
    first = np.argmax(of_image >= 0)
    of_image[:first] = of_image[first]
    return np.asarray(offsets, np.int64), of_image, damaged


def _listed(file, idx, allowed):
    """Yields `(offset, payload or reason)` of each record an idx lists."""
    offsets = read_idx(idx)
    outside = int(np.count_nonzero(offsets > file.size - PART.size))
    if outside > allowed:
        raise ValueError(
            f"{idx.path} lists {outside:,} of {len(offsets):,} records beyond the end "
            f"of {file.path}, which has {file.size:,} bytes: the file was cut or the "
            "two do not belong together. Copy both again"
        )
    last = 0
    for offset in map(int, offsets):
        try:
            payload, end = read_record(file, offset)
        except ValueError as error:
            yield offset, str(error)
        else:
            yield offset, payload
            last = max(last, end)
    if last < file.size:
        logging.warning(
            "%s: its records end at byte %d of the %d of %s; what follows is not used",
            *(idx.path, last, file.size, file.path),
        )


def read_idx(idx: PositionedFile) -> np.ndarray:
    """Returns the offsets of an idx, int64, in the order of its lines.

    Raises:
        ValueError: A line is not `key<tab>offset`; the message names it.
    """
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


class RecordIOFaces(Source):
    """Reads `train.rec` with or without `train.idx`.

    Labels are those of the image records, numbered 0..C-1 in their order. Records
    without an image (insightface's header record and identity records) are passed
    over. Every record is read once to find labels, and without an idx the records
    themselves: two minutes for six million. What was found is kept beside the file, so
    that the next start need not look again.

    Args:
        root: A folder with one `.rec` file or a `train.rec`, or a `.rec` file.
        cache_dir: Where to keep the index when the folder is read-only, or None.
        unreadable: Counts the damaged records; none is allowed by default. They stay
            in the source: reading one raises.

    Attributes:
        identities: int32 `(num_identities,)`: the file's number of each label.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        cache_dir: str | os.PathLike | None = None,
        unreadable: Unreadable | None = None,
    ):
        path = _rec_file(pathlib.Path(root))
        self.name = str(path)
        self._file = PositionedFile(path)
        idx_path = path.with_suffix(".idx")
        idx = PositionedFile(idx_path) if idx_path.exists() else None
        if idx is None:
            logging.warning("%s has no .idx: searching it for records", path)
        cache = IndexCache([self._file, *([idx] if idx else [])], cache_dir)
        arrays = cache.load(["offsets", "labels", "identities"])
        if arrays is None:
            try:
                offsets, labels, damaged = build_index(self._file, idx, unreadable)
            except OSError as error:
                raise unreadable_file(path, error) from error
            labels, identities = number_identities(labels)
            arrays = [offsets, labels, identities]
            # Otherwise the damage would go unsaid the next time.
            if not damaged:
                cache.save(offsets=offsets, labels=labels, identities=identities)
        self._offsets, self.labels, self.identities = arrays
        self.num_identities = len(self.identities)
        self._check_property(path.with_name("property"))

    def _check_property(self, path):
        """Warns when `property`, where it exists, tells another number of classes."""
        text = path.read_text(errors="replace") if path.is_file() else ""
        told = re.search(r"\d+", text)
        if told and int(told[0]) != self.num_identities:
            logging.warning(
                "%s tells %s identities, the images of %s are of %d",
                *(path, told[0], self.name, self.num_identities),
            )

    @property
    def fingerprint(self) -> str:
        """A hash of every image's label and place, and of size and time of the file."""
        digest = hashlib.sha256(b"recordio " + self._file.state)
        for values in (self._offsets, self.labels):
            digest.update(np.ascontiguousarray(values))
        return digest.hexdigest()

    def identity_names(self) -> list[str]:
        return [str(number) for number in self.identities.tolist()]

    def read(self, indices: np.ndarray) -> list[bytes]:
        return [self._read_one(index) for index in np.asarray(indices, int).tolist()]

    def _read_one(self, index):
        payload, _ = read_record(self._file, int(self._offsets[index]))
        try:
            label, image = unpack(payload)
        except ValueError as error:
            raise ValueError(f"{self.describe(index)}: {error}") from None
        expected = self.identities[self.labels[index]]
        if label != expected:
            raise ValueError(
                f"{self.describe(index)}: its label is {label} and was {expected} when "
                "the index was read: the file has changed. Let nothing write to it and "
                "start again"
            )
        return image

    def describe(self, index: int) -> str:
        return self._file.place(int(self._offsets[index]))


def _rec_file(root):
    if not root.is_dir():
        # What is no file either is refused when it is opened.
        return root
    try:
        names = sorted(os.listdir(root))
    except OSError as error:
        raise unreadable_file(root, error) from error
    files = [root / name for name in names if name.endswith(".rec")]
    if len(files) > 1 and root / "train.rec" in files:
        return root / "train.rec"
    if len(files) == 1:
        return files[0]
    found = ", ".join(file.name for file in files) or "none"
    raise ValueError(
        f"{root} must hold one .rec file or a train.rec. Found: {found}. Give the path "
        "of the .rec file itself"
    )
