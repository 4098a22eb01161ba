"""Writing an export aside and giving it its final name only when it is complete."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from ekd_tf.checks import check_range


@contextlib.contextmanager
def staged(final: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a path to write a directory to; renames it to `final` after.

    The path lies in a hidden directory beside `final`, so that the rename is atomic
    and a TF Serving that watches the parent never sees it. When the body raises,
    `KeyboardInterrupt` included, nothing is left, parent directories made included.

    Raises `OSError` where the parent cannot be written to or `final` is there.
    """
    final = pathlib.Path(final)
    made, aside = [], None
    try:
        with _explained(final):
            made = [p for p in (final.parent, *final.parent.parents) if not p.exists()]
            final.parent.mkdir(parents=True, exist_ok=True)
            aside = tempfile.mkdtemp(
                prefix=f".{final.name}-", suffix=".partial", dir=final.parent
            )
        # One level below: mkdtemp makes a directory that only its owner can read,
        # and the export is often served by another user.
        target = pathlib.Path(aside) / final.name
        yield target
        with _explained(final):
            os.replace(target, final)
        made = []
    finally:
        if aside:
            shutil.rmtree(aside, ignore_errors=True)
        for directory in made:
            with contextlib.suppress(OSError):
                directory.rmdir()


def free_version(directory: str | os.PathLike, version: int | None = None) -> int:
    """Returns the version to write below `directory`, which has no such child yet.

    Args:
        directory: Holds one child per version, named by its number, or does not exist.
        version: Int >= 1, or None for one above the highest present.

    Raises:
        FileExistsError: `version` is there already.
    """
    directory = pathlib.Path(directory)
    present = []
    if directory.is_dir():
        names = (child.name for child in directory.iterdir())
        present = sorted(int(n) for n in names if n.isascii() and n.isdigit())
    if version is None:
        return max(present, default=0) + 1
    check_range("version", version, low=1)
    if version in present:
        listed = ", ".join(map(str, present))
        raise FileExistsError(
            f"`version` must not exist yet, a served version never changes. Received: "
            f"version={version}; {directory} has {listed}. Leave `version` out for the "
            "next free one."
        )
    return version


@contextlib.contextmanager
def _explained(final):
    try:
        yield
    except OSError as error:
        # OSError picks its subclass by the number, so PermissionError stays one.
        raise OSError(
            error.errno,
            f"Cannot write {final}: {error.strerror}: "
            f"{error.filename2 or error.filename}. "
            "Choose a directory that can be created and written to.",
        ) from error
