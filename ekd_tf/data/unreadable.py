"""Images that cannot be read: how many may be, and which were met."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from absl import logging

from ekd_tf.files.positioned import reason_of

_NAMED = 20


class UnreadableError(ValueError):
    """More images cannot be read than are allowed; `lines` say which, and why."""

    def __init__(self, lines: Iterable[str], allowed: int):
        self.lines = tuple(lines)
        self.allowed = allowed
        super().__init__(self.explained(""))

    def explained(self, way_out: str) -> str:
        """Returns the message with what to do about it."""
        end = f"; {way_out}" if way_out else ""
        if len(self.lines) == 1:
            return f"cannot decode {self.lines[0]}{end}"
        more = len(self.lines) - _NAMED
        named = [*self.lines[:_NAMED], *[f"and {more} more"] * (more > 0)]
        listed = "\n  ".join(named)
        return (
            f"cannot decode {len(self.lines)} images, of which {self.allowed} may be "
            f"unreadable{end}:\n  {listed}"
        )


class Unreadable:
    """The unreadable images of one run, of which `allowed` may be met."""

    def __init__(self, allowed: int = 0):
        self.allowed = allowed
        self._lines = {}
        self._lock = threading.Lock()

    @property
    def lines(self) -> list[str]:
        """`"path: reason"` of each image met so far."""
        with self._lock:
            return list(self._lines.values())

    def count(self, place: str, reason: str) -> str:
        """Notes an image, once however often it is read, and returns its line.

        One more than is allowed raises `UnreadableError`.
        """
        with self._lock:
            is_new = place not in self._lines
            line = self._lines.setdefault(place, f"{place}: {reason}")
            too_many = len(self._lines) > self.allowed
        if too_many:
            raise UnreadableError(self.lines, self.allowed)
        if is_new:
            logging.warning("unreadable image %s", line)
        return line


def explain(error: Exception, way_out: str) -> str:
    """Returns the words of an error, with the way out where images are unreadable."""
    if isinstance(error, UnreadableError):
        return error.explained(way_out)
    path = getattr(error, "filename", None)
    return reason_of(error) if path is None else f"{path}: {reason_of(error)}"
