"""Face images stored as one directory per identity."""

from __future__ import annotations

import functools
import os

import numpy as np
from absl import logging

from ekd_tf.data.names import PackedNames
from ekd_tf.data.source import Source
from ekd_tf.files.positioned import hash_files
from ekd_tf.files.positioned import read_file
from ekd_tf.files.positioned import unreadable

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_LAYOUT = "<root>/<identity>/<image>.{" + ",".join(s[1:] for s in SUFFIXES) + "}"
_NAMED_IN_LOG = 20


def _is_image(name):
    return name.lower().endswith(SUFFIXES)


def _is_dir(entry):
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself.
        return False


def _visible(directory):
    """Returns the entries of `directory` by name, without hidden ones."""
    try:
        with os.scandir(directory) as entries:
            return sorted(
                (entry for entry in entries if not entry.name.startswith(".")),
                key=lambda entry: entry.name,
            )
    except OSError as error:
        raise unreadable(directory, error) from error


class FolderFaces(Source):
    """Reads `<root>/<identity>/<image>.{jpg,jpeg,png,bmp,webp}`.

    Identities sorted by name are labels 0..C-1; one without images has no label.
    Suffixes are matched in any case, hidden files are skipped, links are followed.
    Scanning lists directories and opens no image: a damaged one is found when read.

    Args:
        root: The directory of identity directories.

    Attributes:
        identities: The names of the identities, by label.
        report: Tuple of lines, each naming an identity without images or an entry
            that is not an image. Logged as one warning when not empty.

    Raises:
        ValueError: `root` is missing, holds no identity directories, no images, or
            a single identity; or a directory cannot be read.
    """

    def __init__(self, root):
        self.root = os.fspath(root)
        self.name = self.root
        self._prefix = os.path.join(self.root, "")
        if not os.path.isdir(self.root):
            raise ValueError(
                f"{self.root} is not a directory. Give the path of a folder laid out "
                f"as {_LAYOUT}"
            )
        report = []
        stray = []
        self.identities = []
        counts = []
        self._names = PackedNames()
        for identity in _visible(self.root):
            if not _is_dir(identity):
                stray.append(identity.name)
                continue
            images = []
            for entry in _visible(identity.path):
                if _is_image(entry.name) and not _is_dir(entry):
                    images.append(entry.name)
                else:
                    report.append(f"not an image: {entry.path}")
            if not images:
                report.append(f"identity without images: {identity.path}")
                continue
            self.identities.append(identity.name)
            counts.append(len(images))
            for name in images:
                self._names.append(name)
        self._check(stray, any_directory=bool(self.identities or report))
        report += [f"not an identity: {os.path.join(self.root, n)}" for n in stray]
        self.report = tuple(report)
        self.num_identities = len(self.identities)
        self.labels = np.repeat(np.arange(self.num_identities, dtype=np.int32), counts)
        self._log_report()

    def _check(self, stray, any_directory):
        if not self.identities:
            if any(_is_image(name) for name in stray):
                raise ValueError(
                    f"{self.root} holds images but no identity directories with "
                    f"images. Move them into one directory per identity: {_LAYOUT}"
                )
            if not any_directory:
                raise ValueError(
                    f"{self.root} holds no identity directories. Lay it out as "
                    f"{_LAYOUT}"
                )
            raise ValueError(
                f"{self.root} holds directories but none with images directly inside. "
                f"Lay it out as {_LAYOUT}"
            )
        if len(self.identities) == 1:
            only = os.path.join(self.root, self.identities[0])
            raise ValueError(
                f"{self.root} holds a single identity with images, {only}. Training "
                "and evaluation need at least two: add a directory per identity, or "
                "give the folder above if this is one identity's folder"
            )

    def _log_report(self):
        if not self.report:
            return
        lines = list(self.report[:_NAMED_IN_LOG])
        if len(self.report) > _NAMED_IN_LOG:
            lines.append(f"and {len(self.report) - _NAMED_IN_LOG} more")
        logging.warning(
            "%s: %d entries are left out:\n  %s",
            self.root,
            len(self.report),
            "\n  ".join(lines),
        )

    def identity_names(self):
        return list(self.identities)

    def describe(self, index: int) -> str:
        return self._path(index, self.labels[index])

    def _path(self, index, label):
        return f"{self._prefix}{self.identities[label]}/{self._names[index]}"

    def read(self, indices):
        labels = self.labels[indices].tolist()
        return [read_file(self._path(*pair)) for pair in zip(indices, labels)]

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of every image's identity, name, size and time of change.

        Asks the file system about every image, so it is computed when first needed.
        """
        paths = map(self.describe, range(len(self)))
        names = (
            f"{self.identities[label]}/{self._names[index]}"
            for index, label in enumerate(self.labels.tolist())
        )
        return hash_files(names, paths).hexdigest()
