"""One process at a time in a folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pathlib
import socket
from collections.abc import Iterator

from absl import logging

# What file systems that know no locks say.
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def locked(folder: pathlib.Path, name: str, way_out: str) -> Iterator[None]:
    """Holds a folder for this process, or says in a `ValueError` who does.

    The operating system frees it however the process ends, SIGKILL included.

    Args:
        folder: It holds the file `lock`.
        name: What messages call it.
        way_out: What to do while another process holds it.
    """
    path = folder / "lock"
    # "a" keeps the holder's words; "w" would erase them before the lock is had.
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise ValueError(f"{name} is in use by {holder}. {way_out}") from None
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            logging.warning(
                "%s cannot be locked (%s): make sure that no other process uses it.",
                folder,
                error.strerror,
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
