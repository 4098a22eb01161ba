"""Raw embeddings on disk, row by row, so that none is computed twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from collections.abc import Iterable

import numpy as np

from ekd_tf.files.outputs import make_folder
from ekd_tf.files.rows import RowFile


class EmbeddingCache:
    """Keeps what a model gave for a source, by fingerprints of both.

    One `.f32` file per model and source holds the rows in order and nothing else, and
    a `.json` beside it says what it is. A file shorter than its source is that of an
    interrupted run: the next one goes on where it ends.

    Args:
        folder: Where to keep the files; made if missing.
    """

    def __init__(self, folder):
        self._folder = make_folder("cache", folder)

    def rows(
        self,
        description: dict,
        count: int,
        compute: Callable[[int], Iterable[np.ndarray]],
    ) -> np.ndarray:
        """Returns the rows of a description, computing those that are missing.

        Args:
            description: JSON-able dict that tells the rows from all others: the
                fingerprints of model and source and what was done to the pixels.
            count: Int, how many rows there are.
            compute: Function of the first row wanted that yields float32 arrays
                `(k, views, dim)` from there on, in order.

        Returns:
            Float32 `(count, views, dim)`, mapped from the file and read-only.

        Raises:
            ValueError: The rows computed are not of one shape or not `count`.
        """
        key = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
        path = self._folder / f"{key.hexdigest()[:32]}.f32"
        return RowFile(path, path.with_suffix(".json"), description, count).fill(
            compute
        )
