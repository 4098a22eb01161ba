"""File names of millions of images in little memory."""

from __future__ import annotations

import array
import os
import sys

_ENCODING = sys.getfilesystemencoding()
_ERRORS = sys.getfilesystemencodeerrors()


class PackedNames:
    """A list of file names that only grows, kept as one block of bytes.

    Python strings would take five times the memory.
    """

    def __init__(self):
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
        return self._block[start : self._ends[index]].decode(_ENCODING, _ERRORS)
