"""Images in records of a few large files that are read by position."""

from __future__ import annotations

import abc
import hashlib
from typing import Any

import numpy as np

from ekd_tf.data.source import Source
from ekd_tf.files.positioned import PositionedFile


class Records(Source):
    """A source of one image per record; a subclass reads one.

    Image i begins at `offsets[i]`, int64, of the file `files[shards[i]]`, without
    shards of the only one.
    """

    # The format, as the fingerprint says it.
    kind: bytes

    def __init__(
        self,
        name: str,
        files: list[PositionedFile],
        offsets: np.ndarray,
        labels: np.ndarray,
        identities: Any,
        shards: np.ndarray | None = None,
    ):
        self.name = name
        self.labels = labels
        self.identities = identities
        self.num_identities = len(identities)
        self._files, self._offsets, self._shards = files, offsets, shards

    @property
    def fingerprint(self) -> str:
        """A hash of every image's label and place, and of sizes and times of files."""
        digest = hashlib.sha256(self.kind)
        for file in self._files:
            digest.update(b" " + file.state)
        if self._shards is not None:
            # Whatever type they are kept in.
            digest.update(self._shards.astype("<i4").tobytes())
        digest.update(self._offsets.tobytes() + self.labels.tobytes())
        return digest.hexdigest()

    def place(self, index: int) -> tuple[PositionedFile, int]:
        """Returns the file of an image and where its record begins."""
        shard = 0 if self._shards is None else self._shards[index]
        return self._files[shard], int(self._offsets[index])

    @abc.abstractmethod
    def read_one(self, index: int) -> bytes:
        """Reads the encoded image `index`."""

    def read(self, indices: np.ndarray) -> list[bytes]:
        return [self.read_one(index) for index in np.asarray(indices, int).tolist()]

    def describe(self, index: int) -> str:
        file, offset = self.place(index)
        return file.place(offset)
