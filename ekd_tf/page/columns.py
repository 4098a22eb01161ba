"""What images are sliced by: quality, images of the identity, a user's attributes."""

from __future__ import annotations

import collections
import contextlib
import csv
import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from ekd_tf.data import Source
from ekd_tf.data import evaluation_batches
from ekd_tf.data.image_pixels import open_image
from ekd_tf.files.user_text import open_text

# Of a column of words so many are slices of their own, the rest is one.
_MOST_VALUES = 20
_KEYS = ("identity", "image")
# Side in pixels that quality is measured at, and images in memory at a time.
_SIDE, _BATCH = 112, 128


@dataclasses.dataclass(frozen=True)
class Column:
    """A way to slice: `values[i]`, int `(n,)`, is of image i a place in `names`.

    It is -1 where nothing is known of the image.
    """

    name: str
    names: tuple[str, ...]
    values: np.ndarray

    @classmethod
    def from_numbers(cls, name: str, numbers: np.ndarray) -> Column | None:
        """Cuts finite numbers, NaN for unknown, into thirds, or few into each.

        Returns None where all are alike.
        """
        numbers = np.asarray(numbers, np.float64)
        known = np.isfinite(numbers)
        distinct = np.unique(numbers[known])
        if distinct.size < 2:
            return None
        if distinct.size <= 3:
            edges, names = distinct[1:], [f"{value:g}" for value in distinct]
        else:
            edges = np.quantile(numbers[known], [1 / 3, 2 / 3])
            # Two without a number between them are one.
            places = np.searchsorted(distinct, edges)
            edges = edges[np.unique(places, return_index=True)[1]]
            edges = edges[edges > distinct[0]]
            # Where two thirds are alike and least, the others are a slice.
            edges = edges if edges.size else distinct[1:2]
            ends = [f"{e:.4g}" if abs(e) < 1000 else f"{e:.0f}" for e in edges]
            names = [f"below {ends[0]}", *map("{} to {}".format, ends, ends[1:])]
            names.append(f"{ends[-1]} and above")
        values = np.searchsorted(edges, numbers, side="right")
        return cls(name, tuple(names), np.where(known, values, -1))

    @classmethod
    def from_words(cls, name: str, words: Sequence[str | None]) -> Column | None:
        """Makes a slice of each word; numbers of more than ten values are cut.

        None and "" stand for unknown. Returns None where all are alike.
        """
        counts = collections.Counter(word for word in words if word)
        if len(counts) > 10:
            with contextlib.suppress(ValueError):
                numbers = [float(word or "nan") for word in words]
                return cls.from_numbers(name, np.array(numbers))
        if len(counts) < 2:
            return None
        common = [word for word, _ in counts.most_common(_MOST_VALUES)]
        names = [*sorted(common), *(["all other values"] * (len(counts) > len(common)))]
        place = {word: names.index(word) for word in common}
        values = [place.get(word, len(common)) if word else -1 for word in words]
        return cls(name, tuple(names), np.array(values))


def quality_columns(source: Source) -> list[Column]:
    """Slices images by sharpness, brightness and the smaller side they are stored at.

    Sharpness is the standard deviation of the Laplacian, brightness the mean, of gray
    levels 0..255 at 112 x 112 pixels.
    """
    sharpness, brightness = [], []
    batches = evaluation_batches(source, np.arange(len(source)), _SIDE, _BATCH)
    for batch in batches:
        gray = batch.astype(np.float32) @ np.float32([0.299, 0.587, 0.114])
        inner = gray[:, 1:-1, 1:-1]
        around = gray[:, :-2, 1:-1] + gray[:, 2:, 1:-1]
        around += gray[:, 1:-1, :-2] + gray[:, 1:-1, 2:]
        sharpness.append((around - 4 * inner).std(axis=(1, 2)))
        brightness.append(gray.mean(axis=(1, 2)))
    measured = {
        "sharpness": np.concatenate(sharpness),
        "brightness": np.concatenate(brightness),
        "size of the stored image, pixels": _sides(source),
    }
    return list(filter(None, (Column.from_numbers(*each) for each in measured.items())))


def _sides(source):
    if not source.encoded:
        return np.zeros(len(source))
    sides = []
    for numbers in np.array_split(np.arange(len(source)), -(-len(source) // _BATCH)):
        for data in source.read(numbers):
            with open_image(data) as image:
                sides.append(min(image.size))
    return np.array(sides)


class Attributes:
    """A user's CSV file of attributes: a header, then a line per identity or image.

    Its first column is headed `identity`, with names of identities (of folders), or
    `image`, with ends of paths (`ann/1.jpg`). Raises `ValueError` for another file.
    """

    def __init__(self, path: str | os.PathLike):
        with open_text(path) as file:
            rows = [[word.strip() for word in row] for row in csv.reader(file) if row]
        self.path = os.fspath(path)
        if not rows or rows[0][0] not in _KEYS or len(rows[0]) < 2:
            raise ValueError(
                f"{self.path} must begin with a line `identity,NAME,...` or "
                f"`image,NAME,...`. Received: {','.join(sum(rows[:1], []))!r}"
            )
        self._key, *self._names = rows[0]
        self._rows: dict[str, list[str]] = {}
        for row in rows[1:]:
            if len(row) != len(rows[0]):
                raise ValueError(
                    f"{self.path}: a line must have {len(rows[0])} values. Received: "
                    f"{','.join(row)}"
                )
            if row[0] in self._rows:
                raise ValueError(
                    f"{self.path} must have one line for each {self._key}. Received a "
                    f"second: {','.join(row)}"
                )
            self._rows[row[0]] = row[1:]

    def columns(self, source: Source) -> list[Column]:
        """Returns the columns of a source's images; none where none is in the file."""
        rows = self._rows_by_image(source)
        if not any(rows):
            return []
        columns = (
            Column.from_words(name, [row[k] if row else None for row in rows])
            for k, name in enumerate(self._names)
        )
        return list(filter(None, columns))

    def check(self, sources: Sequence[Source]) -> None:
        """Raises `ValueError` where it names nothing of any of the sources."""
        if not any(any(self._rows_by_image(source)) for source in sources):
            known = [
                s.identity_names()[0] if self._key == "identity" else s.describe(0)
                for s in sources
            ]
            raise ValueError(
                f"`--slices={self.path}` names no {self._key} of the sets, whose first "
                f"are {known}. Name them so, or give --eval_sets=NAME:folder:DIR"
            )

    def _rows_by_image(self, source):
        """Returns for each image its row of values or None."""
        if self._key == "identity":
            rows_by_label = [self._rows.get(name) for name in source.identity_names()]
            return [rows_by_label[label] for label in source.labels]
        return [self._row_of_path(source.describe(k)) for k in range(len(source))]

    def _row_of_path(self, path):
        parts = path.replace(os.sep, "/").split("/")
        ends = ("/".join(parts[k:]) for k in range(len(parts)))
        return next((self._rows[end] for end in ends if end in self._rows), None)
