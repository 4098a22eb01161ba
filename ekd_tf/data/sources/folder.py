"""Face images stored as one directory per identity."""

from __future__ import annotations

import os

import numpy as np
from absl import logging

from ekd_tf.data.sources.files import SUFFIXES
from ekd_tf.data.sources.files import Files
from ekd_tf.data.sources.files import PackedNames
from ekd_tf.files.positioned import unreadable

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


class FolderFaces(Files):
    """Reads `<root>/<identity>/<image>.{jpg,jpeg,png,bmp,webp}`.

    Identities sorted by name are labels 0..C-1; one without images has no label.
    Suffixes are matched in any case, hidden files are skipped, links are followed.
    Scanning lists directories and opens no image: a damaged one is found when read.
    What is left out, identities without images and entries that are none, is logged.

    Attributes:
        identities: The names of the identities, by label.
    """

    def __init__(self, root: str | os.PathLike):
        self.name = os.fspath(root)
        if not os.path.isdir(self.name):
            raise ValueError(
                f"{self.name} is not a directory. Give the path of a folder laid out "
                f"as {_LAYOUT}"
            )
        left_out, stray, counts = [], [], []
        self.identities: list[str] = []
        self._names = PackedNames()
        for identity in _visible(self.name):
            if not _is_dir(identity):
                stray.append(identity.name)
                left_out.append(f"not an identity: {identity.path}")
                continue
            before = len(self._names)
            for entry in _visible(identity.path):
                if _is_image(entry.name) and not _is_dir(entry):
                    self._names.append(entry.name)
                else:
                    left_out.append(f"not an image: {entry.path}")
            if len(self._names) == before:
                left_out.append(f"identity without images: {identity.path}")
            else:
                self.identities.append(identity.name)
                counts.append(len(self._names) - before)
        self._check(stray, any_directory=len(left_out) > len(stray))
        self.num_identities = len(self.identities)
        self.labels = np.repeat(np.arange(self.num_identities, dtype=np.int32), counts)
        if left_out:
            more = len(left_out) - _NAMED_IN_LOG
            named = left_out[:_NAMED_IN_LOG] + ([f"and {more} more"] * (more > 0))
            listed = "\n  ".join(named)
            logging.warning(
                "%s: %d entries are left out:\n  %s", root, len(left_out), listed
            )

    def _check(self, stray, any_directory):
        root = self.name
        if len(self.identities) == 1:
            only = os.path.join(root, self.identities[0])
            raise ValueError(
                f"{root} holds a single identity with images, {only}. Training "
                "and evaluation need at least two: add a directory per identity, or "
                "give the folder above if this is one identity's folder"
            )
        if self.identities:
            return
        if any(_is_image(name) for name in stray):
            raise ValueError(
                f"{root} holds images but no identity directories with "
                f"images. Move them into one directory per identity: {_LAYOUT}"
            )
        found = "directories but none with images directly inside"
        found = found if any_directory else "no identity directories"
        raise ValueError(f"{root} holds {found}. Lay it out as {_LAYOUT}")

    def identity_names(self) -> list[str]:
        return list(self.identities)

    def file_name(self, index: int) -> str:
        return f"{self.identities[self.labels[index]]}/{self._names[index]}"

    def describe(self, index: int) -> str:
        return os.path.join(self.name, self.file_name(index))
