"""One process at a time in a folder, or at a file."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pathlib
import socket
from collections.abc import Iterator
from typing import IO

from absl import logging

# What file systems that know no locks say.
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def locked(folder: pathlib.Path, name: str, way_out: str) -> Iterator[None]:
    """Holds a folder, which messages call `name`, by its file `lock`.

    A `ValueError` says who else holds it, and the `way_out`. The operating system frees
    it however the process ends, SIGKILL included.
    """
    path = folder / "lock"
    # "a" keeps the holder's words; "w" would erase them before the lock is had.
    with open(path, "a+", encoding="utf-8") as file:
        file.seek(0)
        hold(file, name, way_out, holder=file.read().strip())
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def hold(file: IO, name: str, way_out: str, holder: str = "") -> None:
    """Holds an open file until it is closed, as `locked` does.

    It is open for writing, without which NFS does not lock.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = holder or "another process"
        raise ValueError(f"{name} is in use by {holder}. {way_out}") from None
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        logging.warning(
            "%s cannot be locked (%s): make sure that no other process uses it.",
            name,
            error.strerror,
        )
