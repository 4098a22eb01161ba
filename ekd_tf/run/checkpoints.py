"""Checkpoints of named arrays that a crash cannot leave half-written."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import re
import zipfile
import zlib
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from ekd_tf.files.atomic import write_aside

_HEADER = "__checkpoint__"
_FORMAT = 1
_BFLOAT16 = tf.bfloat16.as_numpy_dtype
# Differences an error lists.
_NAMED = 5
_NAME = re.compile(r"checkpoint-(\d{9,})\.npz")

# What zipfile, NumPy and json raise on bytes that are not a whole checkpoint.
_UNREADABLE = (
    AttributeError,
    EOFError,
    KeyError,
    NotImplementedError,
    OSError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)


class CheckpointStore:
    """Keeps the newest `keep` checkpoints of a run in one folder.

    A checkpoint is one uncompressed `.npz` file, `checkpoint-000001200.npz`: one entry
    per variable and a JSON header with the step, the dtypes and the caller's metadata.
    A file of that name is whole whenever the process dies.
    """

    def __init__(self, directory: str | os.PathLike, keep: int = 3):
        self.directory = pathlib.Path(directory)
        self.keep = keep

    def path(self, step: int) -> pathlib.Path:
        """Returns the file of a step, whether it exists or not."""
        return self.directory / f"checkpoint-{step:09d}.npz"

    def steps(self) -> list[int]:
        """Returns the steps there are files of, oldest first."""
        if not self.directory.is_dir():
            return []
        names = (_NAME.fullmatch(path.name) for path in self.directory.iterdir())
        return sorted(int(match.group(1)) for match in names if match)

    def latest(self) -> int | None:
        """Returns the newest step there is a file of, or None."""
        return max(self.steps(), default=None)

    def save(
        self, step: int, variables: dict[str, Any], metadata: dict | None = None
    ) -> None:
        """Writes a checkpoint, then removes those no longer kept and of later steps.

        Later ones belong to a continuation that was given up.
        """
        arrays = {n: np.asarray(value.numpy()) for n, value in variables.items()}
        header = {
            "format": _FORMAT,
            "step": int(step),
            "dtypes": {name: str(array.dtype) for name, array in arrays.items()},
            "metadata": metadata or {},
        }
        text = np.frombuffer(json.dumps(header).encode(), np.uint8)
        entries: dict[str, Any] = {_HEADER: text}
        for name, array in arrays.items():
            # NumPy has no name for bfloat16 in a file: its bits travel as uint16.
            is_bfloat16 = array.dtype == _BFLOAT16
            entries[name] = array.view(np.uint16) if is_bfloat16 else array
        self.directory.mkdir(parents=True, exist_ok=True)
        write_aside(self.path(int(step)), lambda file: np.savez(file, **entries))
        self.prune(int(step))

    def prune(self, step: int) -> None:
        """Removes what is not kept beside `step`, the newest whole checkpoint."""
        steps = self.steps()
        kept = [each for each in steps if each <= step][-self.keep :]
        for each in set(steps) - set(kept):
            self.path(each).unlink(missing_ok=True)
        for aside in self.directory.glob("checkpoint-*.npz.tmp"):
            aside.unlink(missing_ok=True)

    def restore(self, variables: dict[str, Any]) -> dict:
        """Assigns the values of the newest undamaged file to variables, all or none.

        Returns the metadata given to `save`, and the step under "step".
        """
        header, arrays, path = self._read()
        _check_same_variables(path, variables, arrays)
        for name, value in variables.items():
            value.assign(arrays[name])
        return {**header["metadata"], "step": header["step"]}

    def _read(self):
        paths = [self.path(step) for step in self.steps()[::-1]]
        if not paths:
            raise FileNotFoundError(f"There is no checkpoint in {self.directory}.")
        for path in paths:
            try:
                return (*_read_file(path), path)
            except _UNREADABLE as error:
                # Places that damage has made of no sense are EINVAL. Of any other the
                # file may be whole, and the one before it is not to take its place.
                if getattr(error, "errno", errno.EINVAL) not in (None, errno.EINVAL):
                    raise ValueError(
                        f"{path} cannot be read: {error.strerror}. Mend the cause; or "
                        "remove the file, and the run goes on from the one before it"
                    ) from error
                damage = f"{path} is damaged ({type(error).__name__}: {error})."
            logging.warning("%s Trying the checkpoint before it.", damage)
        raise ValueError(f"{damage} There is no other to restore in its place.")


def _read_file(path):
    """Returns header and arrays; any damage raises one of `_UNREADABLE`."""
    # Opened here: NumPy leaves open a file that is no whole archive.
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
        header = json.loads(archive[_HEADER].tobytes())
        if header["format"] != _FORMAT:
            raise ValueError(f"format {header['format']}, expected {_FORMAT}")
        arrays = {}
        for name, dtype in header["dtypes"].items():
            array = archive[name]
            arrays[name] = array.view(_BFLOAT16) if dtype == "bfloat16" else array
    return header, arrays


def _check_same_variables(path, variables, arrays):
    differences = [f"missing {name}" for name in variables if name not in arrays]
    differences += [f"unexpected {name}" for name in arrays if name not in variables]
    for name in variables.keys() & arrays.keys():
        expected = tuple(variables[name].shape), variables[name].dtype.name
        received = arrays[name].shape, tf.as_dtype(arrays[name].dtype).name
        if received != expected:
            differences.append(
                f"{name} is {received[1]} {received[0]}, expected {expected[1]} "
                f"{expected[0]}"
            )
    if differences:
        more = len(differences) - _NAMED
        listed = sorted(differences)[:_NAMED] + [f"{more:,} more"] * (more > 0)
        raise ValueError(
            f"The checkpoint {path} was written by another model: {'; '.join(listed)}. "
            "Flags that change the variables cannot change within a run: give another "
            "--workdir"
        )
