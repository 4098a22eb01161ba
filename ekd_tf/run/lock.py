"""One process at a time in a workdir."""

from __future__ import annotations

import errno
import fcntl
import os
import pathlib
import socket
from typing import Any

from absl import logging

# File systems that know no locks; some network mounts are among them.
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class WorkdirLock:
    """Holds a workdir for this process, as a context manager.

    The lock belongs to the open file and not to what it says, so the operating
    system frees it however the process ends, SIGKILL included, and neither the clock
    nor the name of the host matters. The file stays and names its last holder.

    Args:
        workdir: The run's folder, which must exist.

    Raises:
        ValueError: On entry, if another process holds it; names process and host.
    """

    def __init__(self, workdir: str | os.PathLike):
        self.path = pathlib.Path(workdir) / "lock"
        self._file: Any = None

    def __enter__(self):
        # "a" keeps the holder's words; "w" would erase them before the lock is had.
        file = open(self.path, "a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise ValueError(
                f"workdir {self.path.parent} is in use by {holder}. Wait for that run "
                "to end, end it, or use another --workdir"
            ) from None
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                file.close()
                raise
            logging.warning(
                "%s cannot be locked (%s): make sure that no other run uses this "
                "workdir.",
                self.path,
                error.strerror,
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        self._file = file
        return self

    def __exit__(self, *error):
        self._file.close()
