"""Raw embeddings on disk, row by row, so that none is computed twice."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from collections.abc import Callable
from collections.abc import Iterable

import numpy as np

from ekd_tf.atomic import write_aside


class EmbeddingCache:
    """Keeps what a model gave for a source, by fingerprints of both.

    One `.f32` file per model and source holds the rows in order and nothing else, and
    a `.json` beside it says what it is. A file shorter than its source is that of an
    interrupted run: the next one goes on where it ends.

    Args:
        folder: Where to keep the files; made if missing.
    """

    def __init__(self, folder):
        self._folder = pathlib.Path(folder)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"`cache` must be a folder that can be written to. Received: {folder} "
                f"({error.strerror})"
            ) from error

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
        note = path.with_suffix(".json")
        shape = json.loads(note.read_text())["shape"] if note.is_file() else None
        done = _complete_rows(path, shape)
        if done < count:
            done, shape = self._compute(path, note, description, done, shape, compute)
        if done != count:
            raise ValueError(
                f"There must be {count} embeddings. Received: {done}; remove {path}"
            )
        return np.memmap(path, np.float32, mode="r", shape=(count, *shape))

    def _compute(self, path, note, description, done, shape, compute):
        with open(path, "r+b" if done else "wb") as file:
            # What was being written when the run was interrupted.
            file.truncate(done * _row_bytes(shape) if done else 0)
            file.seek(0, os.SEEK_END)
            for rows in compute(done):
                if shape is None or not done:
                    shape = list(rows.shape[1:])
                    text = json.dumps({**description, "shape": shape}, indent=2)
                    write_aside(note, lambda f, text=text: f.write(text.encode()))
                if list(rows.shape[1:]) != list(shape):
                    raise ValueError(
                        f"Every embedding must be {tuple(shape)} like the first. "
                        f"Received: {rows.shape[1:]} at row {done}"
                    )
                file.write(np.ascontiguousarray(rows, np.float32).tobytes())
                done += len(rows)
        return done, shape


def _complete_rows(path, shape):
    if shape is None or not path.is_file():
        return 0
    return path.stat().st_size // _row_bytes(shape)


def _row_bytes(shape):
    return 4 * int(np.prod(shape))
