"""Files read by position, from several threads and processes at once."""

from __future__ import annotations

import errno
import os
import resource
import stat
import weakref
from collections.abc import Iterable


def unreadable_file(path: str | os.PathLike, error: OSError) -> ValueError:
    """Returns the error of a file or folder the operating system does not give."""
    way_out = "Check the path, that you may read it (ls -l), and the disk"
    if error.errno == errno.EMFILE:
        way_out = "Allow a process more of them (ulimit -n), or make fewer shards"
    return ValueError(f"cannot read {path}: {error.strerror}. {way_out}")


def reason_of(error: Exception) -> str:
    """Returns the words of an error, of the operating system's without the number.

    The path is then left to the message.
    """
    return getattr(error, "strerror", None) or str(error)


def open_regular(path: str, flags: int = os.O_RDONLY | os.O_CLOEXEC) -> int:
    """Returns a file's descriptor, as an `opener` of `open` does.

    What is no regular file is an `OSError`: a pipe would wait for a writer for ever.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(0, "It is a directory, not a file", path)
        raise OSError(0, "It is no regular file", path)
    return descriptor


def read_file(path: str) -> bytes:
    """Returns what a file holds; raises `OSError` where it cannot be read."""
    # Without a buffer: half the time.
    with open(path, "rb", buffering=0, opener=open_regular) as file:
        return file.read()


class DamagedRecord(ValueError):
    """The record at `offset` of a file cannot be read."""

    def __init__(self, message: str, offset: int):
        super().__init__(message)
        self.offset = offset


class PositionedFile:
    """A file of which any range of bytes is read without moving a position.

    So it can be used by several threads at once, and on both sides of a fork. `size`
    and `mtime_ns` are those when the object was made.

    Raises:
        ValueError: The file is missing, is no file, or may not be read.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = os.fspath(path)
        try:
            self._descriptor = open_regular(self.path)
            weakref.finalize(self, os.close, self._descriptor)
            status = os.fstat(self._descriptor)
        except OSError as error:
            raise unreadable_file(self.path, error) from error
        self.size = status.st_size
        self.mtime_ns = status.st_mtime_ns

    @property
    def state(self) -> bytes:
        """Size and time of change when the object was made, for fingerprints."""
        return b"%d %d" % (self.size, self.mtime_ns)

    def place(self, offset: int) -> str:
        """Returns how messages call the record at `offset`."""
        return f"{self.path}: record at offset {offset}"

    def damage(self, offset: int, reason: str) -> DamagedRecord:
        """Returns the error of a bad record, or of a file that was written to since."""
        status = os.fstat(self._descriptor)
        if (status.st_size, status.st_mtime_ns) != (self.size, self.mtime_ns):
            reason = (
                f"the file has changed since its index was read: {reason}. Let nothing "
                "write to it and start again"
            )
        return DamagedRecord(f"{self.place(offset)}: {reason}", offset)

    def read(self, offset: int, length: int) -> bytes:
        """Returns `length` bytes from `offset`, fewer where the file ends."""
        data = os.pread(self._descriptor, length, offset)
        # One call is cut short by signals and by a limit of 2 GB as well as by the end.
        while 0 < len(data) < length:
            left = length - len(data)
            more = os.pread(self._descriptor, left, offset + len(data))
            if not more:
                break
            data += more
        return data


def open_all(paths: Iterable[str | os.PathLike]) -> list[PositionedFile]:
    """Opens the files of a set, be they more than a process may open by default."""
    paths = list(paths)
    # Beside what is open: systems allow more than a process has without asking.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        wanted = soft + len(paths)
        most = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return [PositionedFile(path) for path in paths]
