"""Several sources as one."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from ekd_tf.data.source import Source


class JoinedSources(Source):
    """The images of several sources one after the other.

    Labels of each source are offset by the identities of those before it, so nobody of
    one source is anybody of another. All hold files, or all pixels of one size.
    """

    def __init__(self, sources: list[Source]):
        kinds = [
            "files" if s.encoded else str(np.shape(s.read(np.zeros(1, int)))[1:])
            for s in sources
        ]
        if len(set(kinds)) > 1:
            listed = ", ".join(f"{s.name} ({k})" for s, k in zip(sources, kinds))
            raise ValueError(
                "Drawn faces are joined with drawn faces of their size, files with "
                f"files. Received: {listed}"
            )
        self.name = "+".join(source.name for source in sources)
        self.encoded = sources[0].encoded
        self._sources = sources
        self._starts = np.cumsum([0, *(len(source) for source in sources)])
        firsts = np.cumsum([0, *(source.num_identities for source in sources)])
        self.num_identities = int(firsts[-1])
        self.labels = np.concatenate(
            [source.labels + np.int32(first) for source, first in zip(sources, firsts)]
        )

    @property
    def fingerprint(self) -> str:
        together = " ".join(source.fingerprint for source in self._sources)
        return hashlib.sha256(together.encode()).hexdigest()

    def _locate(self, indices):
        """Returns the source's number and the position in it of each index."""
        numbers = np.searchsorted(self._starts, indices, side="right") - 1
        return numbers, indices - self._starts[numbers]

    def read(self, indices: np.ndarray) -> Any:
        numbers, positions = self._locate(np.asarray(indices, np.int64))
        images: list = [None] * len(numbers)
        for number in np.unique(numbers):
            rows = np.flatnonzero(numbers == number)
            for row, image in zip(rows, self._sources[number].read(positions[rows])):
                images[row] = image
        return images if self.encoded else np.array(images)

    def identity_names(self) -> list[str]:
        return [
            f"{number}:{name}"
            for number, source in enumerate(self._sources)
            for name in source.identity_names()
        ]

    def describe(self, index: int) -> str:
        number, position = self._locate(index)
        return self._sources[number].describe(int(position))
