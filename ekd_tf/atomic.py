"""Files that are never seen half-written."""

from __future__ import annotations

import os
import pathlib


def write_aside(path: pathlib.Path, write) -> None:
    """Writes a file so that `path` holds the old bytes or all of the new.

    Args:
        path: The file to create or replace.
        write: Function of a binary file object that writes the content.
    """
    aside = path.with_name(path.name + ".tmp")
    try:
        with open(aside, "wb") as file:
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
