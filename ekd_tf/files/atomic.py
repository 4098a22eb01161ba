"""Files that are never seen half-written."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Callable
from collections.abc import Iterator

from ekd_tf.files.user_text import KEEP


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Gives an `OSError` raised inside the path of the file it is about.

    Writing to an open file fails without one: "No space left on device", but where?
    """
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_aside(path: pathlib.Path, write: Callable) -> None:
    """Writes a file so that `path` holds the old bytes or all of the new.

    `write` is given the binary file. An `OSError` (the disk is full) names `path`.
    """
    aside = path.with_name(path.name + ".tmp")
    try:
        with naming(path), open(aside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    # The rename itself is on disk only once the folder is.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes UTF-8 by `write_aside`; bytes of file names that are none come back."""
    content = text.encode("utf-8", KEEP)
    write_aside(pathlib.Path(path), lambda file: file.write(content))
