"""Image files named one by one, and their names in little memory."""

from __future__ import annotations

import abc
import array
import functools
import os
import sys
from typing import Any

import numpy as np

from ekd_tf.data.source import Source
from ekd_tf.files.positioned import hash_files
from ekd_tf.files.positioned import read_file

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_ENCODING = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()


class Files(Source):
    """A source of one image per file; a subclass gives path and name of each."""

    # What else the fingerprint is a hash of.
    hashed = b""

    @abc.abstractmethod
    def file_name(self, index: int) -> str:
        """Returns the name of image `index` within the data set."""

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of every file's name, size and time of change.

        Asks the file system about every image, so it is computed when first needed.
        """
        everything = range(len(self))
        names, paths = map(self.file_name, everything), map(self.describe, everything)
        return hash_files(names, paths, self.hashed).hexdigest()

    def read(self, indices: np.ndarray) -> Any:
        return [read_file(self.describe(index)) for index in indices]


class PackedNames:
    """A list of file names that only grows, kept as one block of bytes.

    Python strings would take five times the memory.
    """

    def __init__(self) -> None:
        self._block = bytearray()
        self._ends = array.array("q")

    def __len__(self) -> int:
        return len(self._ends)

    def append(self, name: str | bytes) -> None:
        """Adds a name at the end."""
        self._block += os.fsencode(name)
        self._ends.append(len(self._block))

    def __getitem__(self, index: int) -> str:
        start = self._ends[index - 1] if index > 0 else 0
        # os.fsdecode does the same in twice the time.
        return self._block[start : self._ends[index]].decode(*_ENCODING)
