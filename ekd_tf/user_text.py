"""Text files and command lines as users hand them in, whatever editor made them."""

from __future__ import annotations

import codecs
import os
import sys

# Bytes that are no UTF-8, as in file names of other systems, are kept.
KEEP = "surrogateescape"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path, errors: str = "strict") -> str:
    """Returns a UTF-8 text file, without a byte-order mark.

    Args:
        path: The file.
        errors: "strict", or `KEEP` for a list of file names.

    Raises:
        ValueError: The file cannot be read or is in another encoding; the message
            names the line.
    """
    path = os.fsdecode(path)
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    return decode_text(data, path, errors)


def decode_text(data: bytes, path, errors: str = "strict") -> str:
    """Returns the text of a file; see `read_text`."""
    if data.startswith(_UTF16):
        raise ValueError(f"{path} is UTF-16 text: save it as UTF-8")
    data = without_mark(data)
    try:
        return data.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise not_utf8(path, line, data[error.start]) from None


def without_mark(data: bytes) -> bytes:
    """Returns bytes of a file without the byte-order mark of UTF-8."""
    mark = codecs.BOM_UTF8
    return data[len(mark) :] if data.startswith(mark) else data


def not_utf8(path, line: int, byte: int) -> ValueError:
    """Returns the error of a line that is no UTF-8."""
    return ValueError(
        f"{path}: line {line} is not UTF-8 text (byte 0x{byte:02x}): save the file as "
        "UTF-8, from Latin-1 by `iconv -f latin1 -t utf-8`"
    )


def command_line() -> list[str]:
    """Returns `sys.argv` with flagfiles in place, for `app.run(main, argv=...)`.

    absl takes a byte-order mark in a flagfile for a word. Its rules are kept: a blank
    line and one from # or // on is left out, a file may name others, `--` ends it.

    From here on, a path that cannot be printed in the terminal's encoding is printed
    with escapes.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        return _expanded(sys.argv, ())
    except ValueError as error:
        sys.exit(f"--flagfile: {error}")


def _expanded(words, inside):
    expanded, words = [], list(words)
    while words:
        word = words.pop(0)
        name, equals, path = word.partition("=")
        if word == "--":
            return [*expanded, word, *words]
        if name not in ("--flagfile", "-flagfile"):
            expanded.append(word)
            continue
        if not equals:
            if not words:
                raise ValueError("give --flagfile=FILE")
            path = words.pop(0)
        path = os.path.expanduser(path.strip())
        if os.path.realpath(path) in inside:
            raise ValueError(f"{path} names itself")
        lines = [line.strip() for line in read_text(path).splitlines()]
        lines = [line for line in lines if line and not line.startswith(("#", "//"))]
        expanded += _expanded(lines, (*inside, os.path.realpath(path)))
    return expanded
