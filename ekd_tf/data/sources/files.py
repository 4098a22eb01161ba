"""Image files named one by one, or in one directory per identity."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from ekd_tf.data.source import Source
from ekd_tf.files.positioned import read_file
from ekd_tf.files.positioned import unreadable_file

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_NAMED = 5
_LAYOUT = "<root>/<identity>/<image>.{" + ",".join(s[1:] for s in SUFFIXES) + "}"
_NAMED_IN_LOG = 20


class Files(Source):
    """A source of one image per file: `names` below the folder `root`.

    Names are texts or, in a fifth of the memory, an array of bytes. Labels are 0 by
    default.
    """

    # What else the fingerprint is a hash of, before the files and after them.
    hashed = hashed_last = b""

    def __init__(
        self,
        name: str,
        root: str,
        names: Sequence[str] | np.ndarray,
        labels: np.ndarray | None = None,
        identities: Iterable = (0,),
    ):
        self.name, self.root = name, root
        self.names: Any = names
        self.labels = np.zeros(len(names), np.int32) if labels is None else labels
        self.identities = list(identities)
        self.num_identities = len(self.identities)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of every file's name, size and time of change (ns)."""
        digest = hashlib.sha256(self.hashed)
        for index, name in enumerate(self.names):
            try:
                status = os.stat(self.describe(index))
                state = b"%d %d" % (status.st_size, status.st_mtime_ns)
            except OSError:
                state = b"missing"
            digest.update(os.fsencode(name) + b"\0" + state + b"\n")
        digest.update(self.hashed_last)
        return digest.hexdigest()

    def check_exist(self) -> None:
        """Refuses a list that names what is no file."""
        paths = map(self.describe, range(len(self)))
        missing = [path for path in paths if not os.path.isfile(path)]
        if missing:
            raise ValueError(
                f"{self.name}: {len(missing):,} of {len(self):,} images are missing, "
                f"such as {', '.join(missing[:_NAMED])}"
            )

    def read(self, indices: np.ndarray) -> Any:
        return [read_file(self.describe(index)) for index in indices]

    def describe(self, index: int) -> str:
        return os.path.join(self.root, os.fsdecode(self.names[index]))


class ListedImages(Files):
    """Reads image files in the order given. All labels are 0."""

    def __init__(self, name: str, paths: Iterable[str | os.PathLike]):
        super().__init__(name, "", [os.fspath(path) for path in paths])
        if not self.names:
            raise ValueError(f"{name} holds no images ({', '.join(SUFFIXES)})")
        self.check_exist()


def images_below(folder: str | os.PathLike) -> ListedImages:
    """Lists the images `names_below` a folder; what is no file is left out and said."""
    root = os.fspath(folder)
    if not os.path.isdir(root):
        raise ValueError(f"{root} is not a directory")
    paths = names_below(root, SUFFIXES)
    files = [path for path in paths if os.path.isfile(path)]
    for path in sorted({*paths}.difference(files)):
        logging.warning("%s is left out: it is no file", path)
    return ListedImages(root, files)


def names_below(root: str, suffixes: tuple[str, ...]) -> list[str]:
    """Returns the paths below a folder with one of these suffixes, in any case, sorted.

    Hidden names are passed over; links are followed, each folder once.
    """

    def refuse(error):
        raise unreadable_file(error.filename, error) from error

    paths, seen = [], set()
    for folder, folders, names in os.walk(root, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if name[0] != ".")
        paths += [
            os.path.join(folder, name)
            for name in names
            if name.lower().endswith(suffixes) and name[0] != "."
        ]
    return sorted(paths)


def _is_dir(entry):
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself.
        return False


def _visible(directory):
    """Returns the entries of a directory by name, without hidden ones."""
    try:
        with os.scandir(directory) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise unreadable_file(directory, error) from error
    return sorted(visible, key=lambda entry: entry.name)


class FolderFaces(Files):
    """Reads `<root>/<identity>/<image>.{jpg,jpeg,png,bmp,webp}`.

    Identities sorted by name are labels 0..C-1; one without images has no label.
    Suffixes are matched in any case, hidden files are skipped, links are followed.
    Scanning lists directories and opens no image: a damaged one is found when read.
    What is left out, identities without images and entries that are none, is logged.
    """

    def __init__(self, root: str | os.PathLike):
        root = os.fspath(root)
        if not os.path.isdir(root):
            raise ValueError(
                f"{root} is not a directory. Give the path of a folder laid out as "
                f"{_LAYOUT}"
            )
        names, counts, left_out = [], {}, []
        for identity in _visible(root):
            if not _is_dir(identity):
                left_out.append(f"not an identity: {identity.path}")
                continue
            before = len(names)
            for entry in _visible(identity.path):
                if entry.name.lower().endswith(SUFFIXES) and not _is_dir(entry):
                    names.append(os.fsencode(f"{identity.name}/{entry.name}"))
                else:
                    left_out.append(f"not an image: {entry.path}")
            if len(names) > before:
                counts[identity.name] = len(names) - before
            else:
                left_out.append(f"identity without images: {identity.path}")
        if len(counts) < 2:
            folders = "a single identity" if counts else "no identity folders"
            raise ValueError(
                f"{root} holds {folders} with images; at least two are needed. Lay it "
                f"out as {_LAYOUT}, or give the folder above"
            )
        labels = np.repeat(np.arange(len(counts), dtype=np.int32), [*counts.values()])
        super().__init__(root, root, np.array(names), labels, counts)
        if left_out:
            more = len(left_out) - _NAMED_IN_LOG
            named = left_out[:_NAMED_IN_LOG] + [f"and {more} more"] * (more > 0)
            logging.warning(
                "%s: %d entries are left out:\n  %s",
                *(root, len(left_out), "\n  ".join(named)),
            )
