"""Writes the cache of a teacher's embeddings, in one go or in several."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

import numpy as np

from ekd_tf import checks
from ekd_tf.embedders.cache_layout import FINISHED
from ekd_tf.embedders.cache_layout import ROWS
from ekd_tf.embedders.cache_layout import WRITING
from ekd_tf.embedders.cache_layout import checksum
from ekd_tf.embedders.cache_layout import differences
from ekd_tf.embedders.cache_layout import images_of
from ekd_tf.embedders.cache_layout import row_file
from ekd_tf.embedders.cache_layout import shard_folder
from ekd_tf.files.atomic import write_text
from ekd_tf.files.lock import locked
from ekd_tf.files.outputs import make_folder
from ekd_tf.files.rows import read_note


class CacheWriter:
    """Writes a cache folder, or goes on with one.

    Args:
        folder: Where; made if missing.
        note: From `describe_cache`.
        shard: `(I, N)`: write the I-th of N parts of the images, counted from 1.

    Raises:
        ValueError: The folder cannot be made, or holds another cache.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        note: dict[str, Any],
        shard: tuple[int, int] = (1, 1),
    ):
        index, count = shard
        self.folder = make_folder("output", folder)
        self._note = dict(note)
        if count > 1:
            checks.check_range("shard", index, low=1, high=count)
            if note["images"] < count:
                raise ValueError(
                    f"`--shard={index}/{count}` must have an image: there are "
                    f"{note['images']}"
                )
            self._note["shard"] = [index, count]
            self.folder = make_folder("output", shard_folder(self.folder, shard))
        for name in (FINISHED, WRITING):
            _check_same(self.folder / name, self._note)
        self.images = images_of(self._note)

    def write(self, compute: Callable[[int], Iterable[np.ndarray]]) -> np.ndarray:
        """Computes the rows that are missing and declares the cache whole.

        Args:
            compute: Function of the first image wanted, counted in the whole source,
                that yields `(k, views, dim)` from there to the end of `images`.

        Returns:
            All rows of this folder, mapped from it.

        Raises:
            ValueError: A row cannot be stored.
        """
        if not (self.folder / FINISHED).is_file():
            # Two that append to one file would spoil it.
            way_out = "Wait for it to end, or end it"
            with locked(self.folder, f"the cache {self.folder}", way_out):
                self._complete(compute)
                (self.folder / "lock").unlink()
        return row_file(self.folder, FINISHED, self._note).fill(compute)

    def _complete(self, compute):
        file = row_file(self.folder, WRITING, self._note)
        start = self.images.start
        file.fill(lambda done: self._stored(start + done, compute(start + done)))
        note = read_note(self.folder / WRITING)
        note["checksums"] = {ROWS: checksum(self.folder / ROWS)}
        write_text(self.folder / FINISHED, json.dumps(note, indent=2) + "\n")
        (self.folder / WRITING).unlink()

    def _stored(self, first, batches):
        for rows in batches:
            with np.errstate(over="ignore"):
                stored = rows.astype(self._note["dtype"])
            bad = np.flatnonzero(~np.isfinite(stored).all(axis=(1, 2)))
            if bad.size:
                given = rows[bad[0]]
                reason = "is not finite"
                if np.isfinite(given).all():
                    reason = (
                        f"does not fit float16 (largest entry {np.abs(given).max():g}):"
                        " use --dtype=float32 and another --output"
                    )
                number = first + int(bad[0])
                raise ValueError(f"The teacher's embedding of image {number} {reason}")
            yield stored
            first += len(rows)


def _check_same(path, note):
    """Raises `ValueError` where a folder holds another cache than is to be written."""
    there = read_note(path)
    differing = [
        f"{words} ({was}, now {now})"
        for words, was, now in (differences(there, note) if there else ())
    ]
    if differing:
        raise ValueError(
            f"{path.parent} holds the cache of another {'; '.join(differing)}. Use "
            "another --output, or remove that folder"
        )
