"""Text files and command lines as users hand them in, whatever editor made them."""

from __future__ import annotations

import codecs
import io
import os
import pathlib
import re
import sys

# How bytes that are no UTF-8 are kept, such as those of file names.
KEEP = "surrogateescape"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# Behind nothing, or behind what stands before a path in flags and commands.
_FROM_ROOT = re.compile(r"""(?<![^\s:=,+'"(])/(?!/)[^\s:,+'"]+""")
_BREAKS = str.maketrans({"\n": "\\n", "\r": "\\r", "\t": "\\t"})


def open_bytes(path: str | bytes | os.PathLike) -> io.BufferedReader:
    """Opens a user's text file for reading, behind its byte-order mark."""
    path = os.fsdecode(path)
    try:
        file = open(path, "rb")
        mark = file.read(len(codecs.BOM_UTF8))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    if mark.startswith(_UTF16):
        file.close()
        raise ValueError(f"{path} is UTF-16 text: save it as UTF-8")
    if mark != codecs.BOM_UTF8:
        file.seek(0)
    return file


def open_text(path: str | bytes | os.PathLike) -> io.TextIOWrapper:
    """Opens a user's UTF-8 text file; other bytes become surrogates, as in names."""
    return io.TextIOWrapper(open_bytes(path), "utf-8", KEEP)


def is_utf8(text: str) -> bool:
    """Returns whether a line of `open_text` was UTF-8."""
    return not any("\udc80" <= letter <= "\udcff" for letter in text)


def printable(text: str) -> str:
    """Returns a text with escapes for what is no UTF-8, for libraries that want it."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def one_line(text: str) -> str:
    """Returns a path or a reason with escapes for what would break a line or column."""
    return text.translate(_BREAKS)


def without_folders(text: str) -> str:
    """Returns a text with the last part of each path from the root alone.

    For what is handed on: where a file lay is of no use there, and nobody's business. A
    file's folder stays, since many files have one name.
    """

    def shortened(match):
        path = pathlib.PurePosixPath(match[0])
        return "/".join(path.parts[1:][-2 if path.suffix else -1 :])

    return _FROM_ROOT.sub(shortened, text)


def command_line() -> list[str]:
    """Returns `sys.argv` with flagfiles in place, for `app.run(main, argv=...)`.

    absl takes a byte-order mark in a flagfile for a word; its rules are kept. From here
    on, a path the terminal's encoding does not have is printed with escapes.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        return _expanded(sys.argv, ())
    except ValueError as error:
        sys.exit(f"--flagfile: {error}")


def _expanded(words, inside):
    expanded, words = [], iter(words)
    for word in words:
        name, equals, path = word.partition("=")
        if word == "--":
            return [*expanded, word, *words]
        if name not in ("--flagfile", "-flagfile"):
            expanded.append(word)
            continue
        path = os.path.expanduser((path if equals else next(words, "")).strip())
        if not path:
            raise ValueError("give --flagfile=FILE")
        if os.path.realpath(path) in inside:
            raise ValueError(f"{path} names itself")
        with open_text(path) as file:
            lines = filter(None, map(str.strip, file))
            lines = [line for line in lines if not line.startswith(("#", "//"))]
        expanded += _expanded(lines, (*inside, os.path.realpath(path)))
    return expanded
