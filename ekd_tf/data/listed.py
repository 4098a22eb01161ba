"""Images given one by one or found in a folder, whoever they show."""

from __future__ import annotations

import hashlib
import os
import pathlib

import numpy as np

from ekd_tf.data.folder import SUFFIXES
from ekd_tf.data.positioned import file_state
from ekd_tf.data.positioned import read_file
from ekd_tf.data.source import Source


class ListedImages(Source):
    """Reads image files in the order given. Labels say nothing: they are all 0.

    Args:
        name: What messages call the list.
        paths: Paths of the files, at least one.

    Attributes:
        paths: The paths, as strings.

    Raises:
        ValueError: There is no path, or no file at one of them.
    """

    num_identities = 1

    def __init__(self, name: str, paths):
        self.name = name
        self.paths = [os.fspath(path) for path in paths]
        if not self.paths:
            raise ValueError(f"{name} holds no images ({', '.join(SUFFIXES)})")
        missing = [path for path in self.paths if not os.path.isfile(path)]
        if missing:
            raise ValueError(
                f"{name}: {len(missing)} of {len(self.paths)} images do not exist: "
                f"{', '.join(missing[:5])}"
            )
        self.labels = np.zeros(len(self.paths), np.int32)

    @property
    def fingerprint(self) -> str:
        """A hash of the paths, sizes and times of change of the files."""
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(os.fsencode(path) + b"\0" + file_state(path) + b"\n")
        return digest.hexdigest()

    def read(self, indices):
        return [read_file(self.paths[index]) for index in indices]

    def describe(self, index: int) -> str:
        return self.paths[index]


def images_below(folder) -> ListedImages:
    """Lists the images of a folder and its subfolders, sorted by path.

    Raises:
        ValueError: `folder` is no directory or holds no image.
    """
    root = pathlib.Path(folder)
    if not root.is_dir():
        raise ValueError(f"{folder} is not a directory")
    return ListedImages(
        os.fspath(folder),
        sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES),
    )
