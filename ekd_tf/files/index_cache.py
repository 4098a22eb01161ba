"""Arrays that take long to find out, kept in a file beside what they describe."""

from __future__ import annotations

import hashlib
import os
import pathlib
import stat
import zipfile
from collections.abc import Iterable
from typing import Any

import numpy as np
from absl import logging

from ekd_tf.files.atomic import write_aside
from ekd_tf.files.positioned import PositionedFile

SUFFIX = ".ekd_index.npz"
_FORMAT = 1
_WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


class IndexCache:
    """Keeps arrays until the size or the time of change of one of their files differs.

    They are kept beside the first of these or, where that is read-only, in `folder`.
    """

    def __init__(
        self, files: list[PositionedFile], folder: str | os.PathLike | None = None
    ):
        states = [n for file in files for n in (file.size, file.mtime_ns)]
        self._state = np.array([_FORMAT, *states])
        path = pathlib.Path(files[0].path).absolute()
        self.paths = [path.with_name(path.name + SUFFIX)]
        if folder is not None:
            place = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
            self.paths.append(pathlib.Path(folder) / f"{path.stem}-{place}{SUFFIX}")

    def load(self, names: Iterable[str]) -> list[np.ndarray] | None:
        """Returns the arrays of these names, or None unless all are there and valid."""
        for path in self.paths:
            try:
                with open(path, "rb") as file, np.lib.npyio.NpzFile(file) as stored:
                    if np.array_equal(stored["state"], self._state):
                        return [stored[name] for name in names]
            except FileNotFoundError:
                continue
            # What a torn or foreign file makes of NumPy and zipfile.
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as e:
                logging.warning("%s is not used and made again: %s", path, e)
        return None

    def save(self, **arrays: Any) -> None:
        """Writes the arrays; says in the log when nowhere is writable."""

        def write(file):
            np.savez(file, state=self._state, **arrays)

        reasons = []
        for path in self.paths:
            try:
                # The administrator may write here all the same and is not to.
                if not path.parent.stat().st_mode & _WRITABLE:
                    raise PermissionError(0, "The folder is read-only")
                return write_aside(path, write)
            except OSError as error:
                reasons.append(f"{path}: {error.strerror}")
        logging.info(
            "The index is read again at every start, it could not be kept: %s",
            "; ".join(reasons),
        )
