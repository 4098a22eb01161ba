"""Proves that an output can be written before anything is computed for it."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import tempfile
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterator

# A full disk, a used-up quota, a file system turned read-only.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def make_folder(name: str, folder: str | os.PathLike) -> pathlib.Path:
    """Makes a folder, which the user calls `name`, where it is missing."""
    with _refusing(name, "folder", folder):
        return _make(pathlib.Path(folder))


def check_file(name: str, path: str | os.PathLike) -> pathlib.Path:
    """Makes the folder of a file, which the user calls `name` and may be replaced."""
    path = pathlib.Path(path)
    with _refusing(name, "file", path):
        _make(path.parent)
        # The system limits names; `write_aside` adds to them.
        with contextlib.suppress(FileNotFoundError):
            os.lstat(f"{path}.tmp")
        if path.is_dir():
            raise IsADirectoryError(0, "It is a folder")
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(0, "It may not be replaced")
    return path


def check_outside(
    name: str, path: str | os.PathLike, source: str, folder: str | os.PathLike
) -> None:
    """Refuses an output in the folder of the images that --`source` names."""
    inner, outer = pathlib.Path(path).resolve(), pathlib.Path(folder).resolve()
    if outer in (inner, *inner.parents):
        raise ValueError(
            f"`--{name}` must lie outside of --{source}, or what is written would be "
            f"taken for its images. Received: {path}"
        )


@contextlib.contextmanager
def naming_unwritable(
    name: str | os.PathLike,
    way_out: Callable[[], str],
    errnos: Collection[int] = FULL,
) -> Iterator[None]:
    """Raises `ValueError` with the way out for errors of these numbers; others pass.

    `name` is what to call the file where the error, of an open one, does not.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in errnos:
            raise
        raise ValueError(
            f"{error.filename or name} cannot be written: {error.strerror}. {way_out()}"
        ) from error


def _make(folder):
    folder.mkdir(parents=True, exist_ok=True)
    # A read-only mount or a full disk shows only when something is written.
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"x")
    return folder


@contextlib.contextmanager
def _refusing(name, kind, path):
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"`{name}` must be a {kind} that can be written to. Received: {path} "
            f"({error.strerror})"
        ) from error
