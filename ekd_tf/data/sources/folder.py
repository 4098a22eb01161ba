"""Face images stored as one directory per identity."""

from __future__ import annotations

import os

import numpy as np
from absl import logging

from ekd_tf.data.sources.files import SUFFIXES
from ekd_tf.data.sources.files import Files
from ekd_tf.data.sources.files import PackedNames
from ekd_tf.files.positioned import unreadable_file

_LAYOUT = "<root>/<identity>/<image>.{" + ",".join(s[1:] for s in SUFFIXES) + "}"
_NAMED_IN_LOG = 20


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

    Attributes:
        identities: The names of the identities, by label.
    """

    def __init__(self, root: str | os.PathLike):
        root = os.fspath(root)
        if not os.path.isdir(root):
            raise ValueError(
                f"{root} is not a directory. Give the path of a folder laid out as "
                f"{_LAYOUT}"
            )
        names, counts, left_out = PackedNames(), {}, []
        for identity in _visible(root):
            if not _is_dir(identity):
                left_out.append(f"not an identity: {identity.path}")
                continue
            before = len(names)
            for entry in _visible(identity.path):
                if entry.name.lower().endswith(SUFFIXES) and not _is_dir(entry):
                    names.append(f"{identity.name}/{entry.name}")
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
        super().__init__(root, root, names, labels, counts)
        if left_out:
            more = len(left_out) - _NAMED_IN_LOG
            named = left_out[:_NAMED_IN_LOG] + [f"and {more} more"] * (more > 0)
            logging.warning(
                "%s: %d entries are left out:\n  %s",
                *(root, len(left_out), "\n  ".join(named)),
            )
