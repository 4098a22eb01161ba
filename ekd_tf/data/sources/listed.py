"""Images listed one by one or found in a folder, without identities."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np
from absl import logging

from ekd_tf.data.one_image import decodable
from ekd_tf.data.sources.files import SUFFIXES
from ekd_tf.data.sources.files import Files
from ekd_tf.files.positioned import read_file
from ekd_tf.files.positioned import unreadable


class ListedImages(Files):
    """Reads image files in the order given. All labels are 0."""

    num_identities = 1

    def __init__(self, name: str, paths: Iterable[str | os.PathLike]):
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

    def describe(self, index: int) -> str:
        return self.paths[index]

    file_name = describe


def images_below(folder: str | os.PathLike) -> ListedImages:
    """Lists the images of a folder and its subfolders, sorted by path.

    Hidden names are passed over. A name that is no file, such as a link to nothing, is
    left out with a warning.
    """
    root = os.fspath(folder)
    if not os.path.isdir(root):
        raise ValueError(f"{root} is not a directory")
    paths = names_below(root, SUFFIXES)
    for path in paths:
        if not os.path.isfile(path):
            logging.warning("%s is left out: it is no file", path)
    return ListedImages(root, filter(os.path.isfile, paths))


def names_below(root: str, suffixes: tuple[str, ...]) -> list[str]:
    """Returns the paths below a folder with one of these suffixes, in any case, sorted.

    Hidden names are passed over; links are followed, each folder once.
    """

    def refuse(error):
        raise unreadable(error.filename, error) from error

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


def readable(images: ListedImages) -> ListedImages:
    """Returns the images that can be decoded; each other is a warning."""
    kept = []
    for path in images.paths:
        try:
            reason = decodable(read_file(path))
        except OSError as error:
            reason = error.strerror
        if reason is None:
            kept.append(path)
        else:
            logging.warning("%s is left out: %s", path, reason)
    return ListedImages(images.name, kept)
