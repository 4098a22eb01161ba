"""Files of equal rows that a killed writer leaves short and the next one completes."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ekd_tf.files.atomic import naming
from ekd_tf.files.atomic import write_text
from ekd_tf.files.lock import hold


class RowFile:
    """`count` rows of one shape one behind the other, and a note what they are.

    The file holds the rows and nothing else, so its size tells how many are complete;
    what is left of a row that was being written is cut off. The note is the JSON of
    `description` and the rows' "shape".
    """

    def __init__(
        self,
        path: pathlib.Path,
        note: pathlib.Path,
        description: dict,
        count: int,
        dtype: DTypeLike = np.float32,
    ):
        self.path, self.note = path, note
        self.count = count
        self.dtype = np.dtype(dtype)
        self._description = description
        self._shape: list | None = read_note(note).get("shape")

    @property
    def done(self) -> int:
        """How many rows are complete."""
        if self._shape is None or not self.path.is_file():
            return 0
        return self.path.stat().st_size // self._row_bytes

    @property
    def _row_bytes(self):
        return self.dtype.itemsize * int(np.prod(self._shape))

    def fill(self, compute: Callable[[int], Iterable[np.ndarray]]) -> np.ndarray:
        """Returns the rows, `(count, ...)`, mapped from the file and read-only.

        `compute(first)` yields arrays `(k, ...)` from the first missing row on.
        """
        if self.done < self.count:
            self._append(compute)
        if self.done != self.count:
            raise ValueError(
                f"There must be {self.count} embeddings. Received: {self.done}; "
                f"remove {self.path}"
            )
        shape = (self.count, *(self._shape or ()))
        return np.memmap(self.path, self.dtype, mode="r", shape=shape)

    def _append(self, compute):
        with naming(self.path), open(self.path, "ab") as file:
            # Rows of two that append would stand in each other's places.
            hold(file, str(self.path), "Wait for it to end, and give the command again")
            self._shape = read_note(self.note).get("shape")
            done = self.done
            # What was being written when the run was interrupted.
            file.truncate(done * self._row_bytes if done else 0)
            for rows in compute(done):
                shape = list(rows.shape[1:])
                if not done:
                    self._shape = shape
                    note = json.dumps({**self._description, "shape": shape}, indent=2)
                    write_text(self.note, note + "\n")
                if shape != self._shape:
                    raise ValueError(
                        f"Every embedding must be {tuple(self._shape)} like the first. "
                        f"Received: {tuple(shape)} at row {done}"
                    )
                file.write(np.ascontiguousarray(rows, self.dtype).tobytes())
                # A killed process loses what Python still holds.
                file.flush()
                done += len(rows)
            os.fsync(file.fileno())


class JoinedRows:
    """Arrays of equal rows, one behind the other, read as one without copying."""

    def __init__(self, parts: Sequence[np.ndarray]):
        self._parts = parts
        ends = np.cumsum([len(part) for part in parts])
        self._starts = [0, *ends[:-1]]
        self.shape = (int(ends[-1]), *parts[0].shape[1:])
        self.dtype: DTypeLike = parts[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        """Returns rows by a slice, by positions, or by `(positions, views)`."""
        rows, *rest = key if isinstance(key, tuple) else (key,)
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        result = np.empty((len(rows), *self.shape[1 + len(rest) :]), self.dtype)
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        for owner in np.unique(owners):
            mine = owners == owner
            inside = rows[mine] - self._starts[owner]
            result[mine] = self._parts[owner][(inside, *(each[mine] for each in rest))]
        return result


def read_note(path: pathlib.Path) -> dict:
    """Returns a note, empty where there is none."""
    if not path.is_file():
        return {}
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(note, dict):
            raise ValueError("it holds no JSON object")
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}; remove it") from None
    return note
