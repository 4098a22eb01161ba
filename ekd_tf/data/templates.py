"""The list files of IJB-B and IJB-C, and their images, aligned by five points."""

from __future__ import annotations

import csv
import dataclasses
import os
import pathlib
import warnings

import numpy as np

from ekd_tf.data.alignment import TEMPLATE_SIZE
from ekd_tf.data.alignment import align
from ekd_tf.data.image_pixels import read_image
from ekd_tf.data.source import Source
from ekd_tf.data.sources.files import Files
from ekd_tf.files.positioned import read_file
from ekd_tf.files.user_text import open_text


@dataclasses.dataclass(frozen=True)
class TemplatePairs:
    """Pairs of templates, int32 `(pairs,)` each, and bool `(pairs,)`, if of one."""

    first: np.ndarray
    second: np.ndarray
    same: np.ndarray


@dataclasses.dataclass(frozen=True)
class TemplateSubjects:
    """Templates, each once, with their subjects, both int64 `(k,)`."""

    template: np.ndarray
    subject: np.ndarray


@dataclasses.dataclass(frozen=True)
class TemplateSet:
    """IJB-B, IJB-C or a set laid out as they are.

    Attributes:
        template, media: Int64 `(images,)`, the numbers an image belongs to.
        score: Float32 `(images,)`, of the face detector.
        pairs: None where there is no list, as `probes`.
        galleries: By name; empty where there is no list.
    """

    name: str
    images: Source
    template: np.ndarray
    media: np.ndarray
    score: np.ndarray
    pairs: TemplatePairs | None
    galleries: dict[str, TemplateSubjects]
    probes: TemplateSubjects | None


class AlignedImages(Files):
    """Reads loosely cropped faces and aligns each by its five points, `(n, 5, 2)`."""

    encoded = False
    hashed = b"aligned %d" % TEMPLATE_SIZE

    def __init__(self, root: str | os.PathLike, names: list[str], points: np.ndarray):
        super().__init__(os.fspath(root), os.fspath(root), names)
        self._points = points
        self.hashed_last = np.asarray(points, np.float32).tobytes()
        self.check_exist()

    def read(self, indices: np.ndarray) -> np.ndarray:
        return np.stack([self._read_one(int(index)) for index in indices])

    def _read_one(self, index):
        path = self.describe(index)
        try:
            return align(read_image(read_file(path)), self._points[index])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def read_template_set(root: str | os.PathLike) -> TemplateSet:
    """Reads the set of templates in a folder.

    Layout: `meta/<name>_face_tid_mid.txt` (image, template, media),
    `meta/<name>_name_5pts_score.txt` (image, ten numbers, detector score),
    `meta/<name>_template_pair_label.txt` (two templates, 0 or 1), images in
    `loose_crop/`. For searches `meta/<name>_1N_gallery_*.csv` and
    `meta/<name>_1N_probe_*.csv`, whose first columns are template and subject.
    """
    meta = pathlib.Path(root) / "meta"
    lists = sorted(meta.glob("*_face_tid_mid.txt"))
    if len(lists) != 1:
        raise ValueError(
            f"{meta} must hold one *_face_tid_mid.txt. "
            f"Found: {[path.name for path in lists]}"
        )
    name = lists[0].name.removesuffix("_face_tid_mid.txt")
    names, numbers = _table(lists[0], 2, np.int64)
    named, marks = _table(meta / f"{name}_name_5pts_score.txt", 11, np.float32)
    points = marks[:, :10].reshape(-1, 5, 2)
    if names != named:
        raise ValueError(
            f"{meta}: the two lists of {name} must name the same images in the same "
            f"order. Received: {len(names):,} and {len(named):,} names"
        )
    pairs = meta / f"{name}_template_pair_label.txt"
    galleries = {
        path.stem.rpartition("_")[2]: _read_subjects([path])
        for path in sorted(meta.glob(f"{name}_1N_gallery_*.csv"))
    }
    probes = sorted(meta.glob(f"{name}_1N_probe_*.csv"))
    return TemplateSet(
        name=name,
        images=AlignedImages(pathlib.Path(root) / "loose_crop", names, points),
        template=numbers[:, 0],
        media=numbers[:, 1],
        score=marks[:, 10],
        pairs=_read_template_pairs(pairs) if pairs.is_file() else None,
        galleries=galleries,
        probes=_read_subjects(probes) if probes else None,
    )


def _read_template_pairs(path):
    """Reads lines `template template 0|1`, 16 million of them in IJB-C."""
    columns = _load(path, np.int32).T
    if len(columns) != 3 or not np.isin(columns[2], (0, 1)).all():
        raise ValueError(
            f"{path} must hold lines of two templates and 0 or 1. Received: "
            f"{len(columns)} columns, the last of {np.unique(columns[-1])[:5]}"
        )
    return TemplatePairs(columns[0], columns[1], columns[2] == 1)


def _read_subjects(paths):
    """Reads the first two columns, template and subject, of CSV files with a header."""
    subjects: dict = {}
    for path in paths:
        with open_text(path) as file:
            for number, row in enumerate(csv.reader(file), 1):
                if number == 1 or not row:
                    continue
                try:
                    template, subject = int(row[0]), int(row[1])
                except (ValueError, IndexError):
                    raise ValueError(
                        f"{path}: line {number} must begin with a template and a "
                        f"subject. Received: {','.join(row)[:80]!r}"
                    ) from None
                if subjects.setdefault(template, subject) != subject:
                    raise ValueError(
                        f"{path}: template {template} is of subject {subject} and of "
                        f"{subjects[template]}"
                    )
    if not subjects:
        raise ValueError(f"{paths[0]} names no template. Copy it again")
    columns = list(subjects), list(subjects.values())
    return TemplateSubjects(*np.array(columns, np.int64))


def _table(path, columns, dtype):
    """Reads lines of a name and as many numbers as `columns`."""
    numbers = _load(path, dtype, usecols=range(1, columns + 1))
    with open_text(path) as file:
        rows = [line.split() for line in file if line.strip()]
    wrong = [number for number, row in enumerate(rows, 1) if len(row) != columns + 1]
    if wrong:
        raise ValueError(
            f"{path}: line {wrong[0]} must have a name and {columns} numbers. "
            f"Received: {' '.join(rows[wrong[0] - 1])[:80]!r}"
        )
    return [row[0] for row in rows], numbers


def _load(path, dtype, **arguments):
    """Reads a file of numbers without a Python object for each."""
    try:
        with open_text(path) as file, warnings.catch_warnings():
            # NumPy warns of a file without a line.
            warnings.simplefilter("ignore")
            numbers = np.loadtxt(file, dtype, comments=None, ndmin=2, **arguments)
    except (OSError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not numbers.size:
        raise ValueError(f"{path} is empty. Copy it again")
    if not np.isfinite(numbers).all():
        raise ValueError(f"{path} cannot be read: a number is not finite")
    return numbers
