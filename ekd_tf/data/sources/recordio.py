"""The training sets of insightface: MXNet RecordIO without MXNet."""

from __future__ import annotations

import hashlib
import os
import pathlib
import re

import numpy as np
from absl import logging

from ekd_tf.data.source import Source
from ekd_tf.data.source import number_identities
from ekd_tf.data.sources.recordio_frame import FIRST_READ
from ekd_tf.data.sources.recordio_frame import read_record
from ekd_tf.data.sources.recordio_index import build_index
from ekd_tf.data.sources.recordio_index import impossible_label
from ekd_tf.data.sources.recordio_index import is_label
from ekd_tf.data.sources.recordio_index import unpack
from ekd_tf.data.sources.recordio_index import unpack_plain
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.files.index_cache import IndexCache
from ekd_tf.files.positioned import PositionedFile
from ekd_tf.files.positioned import unreadable as unreadable_file


class RecordIOFaces(Source):
    """Reads `train.rec` with or without `train.idx`.

    Labels are those of the image records, numbered 0..C-1 in their order. Records
    without an image (insightface's header record and identity records) are passed
    over; without an idx the whole file is read once to find the records. What was
    found is kept beside the file, so that the next start need not look again.

    Args:
        root: A folder with one `.rec` file or a `train.rec`, or a `.rec` file.
        cache_dir: Where to keep the index when the folder is read-only, or None.
        unreadable: Counts the damaged records; none is allowed by default. They stay
            in the source: reading one raises.

    Attributes:
        identities: int32 `(num_identities,)`: the file's number of each label.

    Raises:
        ValueError: A file is missing, malformed or damaged, a label is no integer in
            [0, 2^24), or there is no image; the message says which and what to do.
    """

    def __init__(self, root, cache_dir=None, unreadable: Unreadable | None = None):
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
            arrays = offsets, labels, identities
            # Otherwise the damage would go unsaid the next time.
            if not damaged:
                cache.save(offsets=offsets, labels=labels, identities=identities)
        self._offsets, self.labels, self.identities = arrays
        self.num_identities = len(self.identities)
        self._check_property(path.with_name("property"))

    def _check_property(self, path):
        """Warns when `property`, where it exists, tells another number of classes."""
        try:
            told = re.search(r"\d+", path.read_text(errors="replace"))
        except FileNotFoundError:
            return
        except OSError as error:
            logging.warning("%s is not read: %s", path, error.strerror)
            return
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

    def identity_names(self):
        return [str(number) for number in self.identities.tolist()]

    def read(self, indices):
        indices = np.asarray(indices, np.int64)
        images = []
        # Plain numbers for the whole batch: one by one they take as long as reading.
        for index, offset, label in zip(
            indices.tolist(),
            self._offsets[indices].tolist(),
            self.identities[self.labels[indices]].tolist(),
        ):
            block = self._file.read(offset, FIRST_READ)
            image = unpack_plain(block, label)
            images.append(self._read_one(index) if image is None else image)
        return images

    def _read_one(self, index):
        """Reads a record of any shape, and says what is wrong with it."""
        payload, _ = read_record(self._file, int(self._offsets[index]))
        try:
            label, image = unpack(payload)
        except ValueError as error:
            raise ValueError(f"{self.describe(index)}: {error}") from None
        expected = self.identities[self.labels[index]]
        if label is not None and not is_label(label):
            raise ValueError(f"{self.describe(index)}: {impossible_label(label)}")
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
