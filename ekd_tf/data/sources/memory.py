"""A source whose images are drawn or read once and kept."""

from __future__ import annotations

import threading

import numpy as np

from ekd_tf.data.source import Source


class InMemoryFaces(Source):
    """Keeps the pixels of a source in memory after their first use.

    For sources that are costly to read and small: 20,000 images of 48x48 take
    138 MB.

    Args:
        source: A `Source` of pixels (`encoded` False).

    Raises:
        ValueError: The source returns encoded images.
    """

    encoded = False

    def __init__(self, source: Source):
        if source.encoded:
            raise ValueError(
                "InMemoryFaces keeps pixels. Received a source of encoded images: "
                f"{source.name}"
            )
        self._source = source
        self._lock = threading.Lock()
        self._pixels = None
        self._known = np.zeros(len(source), bool)
        self.name = source.name
        self.labels = source.labels
        self.num_identities = source.num_identities

    @property
    def fingerprint(self) -> str:
        return self._source.fingerprint

    def identity_names(self):
        return self._source.identity_names()

    def describe(self, index: int) -> str:
        return self._source.describe(index)

    def read(self, indices):
        indices = np.asarray(indices)
        with self._lock:
            missing = np.unique(indices[~self._known[indices]])
            if len(missing):
                images = self._source.read(missing)
                if self._pixels is None:
                    shape = (len(self._source), *images.shape[1:])
                    # Untouched pages of zeros take no memory.
                    self._pixels = np.zeros(shape, np.uint8)
                self._pixels[missing] = images
                self._known[missing] = True
        return self._pixels[indices]
