"""Counts of the pairs of a set for a page, in memory that does not grow with them."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np

from ekd_tf.evaluation.allpairs import PairBlocks
from ekd_tf.evaluation.verification import MIN_NEGATIVES
from ekd_tf.page.columns import Column

# A power of two: float32 cosines are compared with it without rounding.
STEP = 1 / 1024
# What is resampled is counted in so many groups at most: 8 MB a kind.
_GROUPS = 500
_NORMAL = 1.959964

# (0 for positive and 1 for negative, rows, columns, scores), 1-D arrays.
Pairs = Iterable[tuple[int, np.ndarray, np.ndarray, np.ndarray]]


def labelled_pairs(blocks: PairBlocks) -> Iterator[tuple]:
    """Yields all pairs of labelled images as `Pairs`, block by block."""
    for block in blocks:
        if block.positive is None:
            rows = np.repeat(block.rows, len(block.columns))
            columns = np.tile(block.columns, len(block.rows))
            yield 1, rows, columns, block.cosine.reshape(-1)
            continue
        for kind, mask in enumerate((block.positive, block.negative)):
            r, c = np.nonzero(mask)
            yield kind, block.rows[r], block.columns[c], block.cosine[r, c]


def given_pairs(cosines: np.ndarray, same: np.ndarray) -> Iterator[tuple]:
    """Yields pairs of images 2i and 2i + 1 as `Pairs`."""
    for kind, mask in enumerate((same, ~same)):
        chosen = np.flatnonzero(mask)
        yield kind, 2 * chosen, 2 * chosen + 1, cosines[chosen]


class Units:
    """What is resampled, in groups: identities, or where there are none, given pairs.

    `group_of_image` is int `(n,)`, the group of each image.
    """

    def __init__(self, labels: np.ndarray | None, images: int):
        self.labels = labels
        units = np.arange(images) // 2 if labels is None else labels
        groups = np.unique(units, return_inverse=True)[1].reshape(-1)
        self.group_of_image = groups % _GROUPS
        self.count = int(self.group_of_image.max()) + 1
        # A negative pair of two identities weighs by both, any other by one unit.
        self.weights = np.array([0.5, 0.5 if labels is None else 1.0])


class GridCounts:
    """Counts pairs above each of many thresholds, with intervals and examples.

    `exact` are thresholds beside those of the grid from -1 to 1 in steps of `STEP`.
    """

    def __init__(self, exact: Sequence[float], units: Units):
        grid = np.arange(-1, 1 + STEP, STEP)
        self.thresholds = np.unique(np.append(grid, np.asarray(exact, np.float64)))
        self._units = units
        cells = len(self.thresholds) + 1
        self._ends = np.zeros((2, units.count, cells), np.int64)
        self._examples = np.full((2, cells, 2), -1, np.int64)
        self._cosines = np.zeros((2, cells))

    def add(
        self, kind: int, rows: np.ndarray, columns: np.ndarray, scores: np.ndarray
    ) -> None:
        """Takes in one of `Pairs`."""
        _, groups, cells = self._ends.shape
        cell = np.searchsorted(self.thresholds.astype(scores.dtype), scores)
        for side in (rows, columns):
            place = self._units.group_of_image[side] * cells + cell
            ends = np.bincount(place, None, groups * cells)
            self._ends[kind] += ends.reshape(groups, cells)
        self._examples[kind, cell, 0] = rows
        self._examples[kind, cell, 1] = columns
        self._cosines[kind, cell] = scores

    def above(self) -> np.ndarray:
        """Returns the numbers of pairs above each threshold, int64 `(2, t)`."""
        return self._above().sum(axis=1) // 2

    def _above(self):
        reverse = slice(None, None, -1)
        return np.cumsum(self._ends[..., reverse], axis=2)[..., reverse][..., 1:]

    def intervals(self) -> np.ndarray:
        """Returns 95 % intervals of TPR and FPR at each threshold, `(2, t, 2)`."""
        return _intervals(self._ends.sum(axis=2), self._above(), self._units.weights)

    def examples(self, stops: np.ndarray, each: int) -> list[tuple]:
        """Returns the `each` kept pairs of a kind nearest to every stop, each once.

        `(kind, cosine, row, column)`. Of a kind one is kept between two thresholds.
        """
        examples: dict[tuple, None] = {}
        for stop in stops:
            for kind, (pairs, cosines) in enumerate(zip(self._examples, self._cosines)):
                held = np.flatnonzero(pairs[:, 0] >= 0)
                near = held[np.argsort(np.abs(cosines[held] - stop), kind="stable")]
                for k in near[:each]:
                    examples[(kind, float(cosines[k]), *pairs[k].tolist())] = None
        return list(examples)


class SliceCounts:
    """Counts pairs above a few thresholds by slices of the images.

    A pair is of a slice where both images are; by `identity` every pair is counted at
    each of its identities.
    """

    def __init__(
        self, thresholds: Sequence[float], columns: Sequence[Column], units: Units
    ):
        # The first threshold has all pairs.
        self._thresholds = [-np.inf, *thresholds]
        self._columns, self._units = columns, units
        levels = len(self._thresholds)
        # Of each column the ends of pairs: (threshold, kind, value, group).
        self._ends = [
            np.zeros((levels, 2, len(c.names), units.count), int) for c in columns
        ]
        identities = 0 if units.labels is None else int(units.labels.max()) + 1
        self.identity_counts = np.zeros((levels, 2, identities), int)

    def add(
        self, kind: int, rows: np.ndarray, columns: np.ndarray, scores: np.ndarray
    ) -> None:
        """Takes in one of `Pairs`."""
        for level, threshold in enumerate(self._thresholds):
            above = scores > np.asarray(threshold, scores.dtype)
            left, right = rows[above], columns[above]
            for ends, column in zip(self._ends, self._columns):
                _, _, values, groups = ends.shape
                value = column.values[left]
                inside = (value == column.values[right]) & (value >= 0)
                for side in (left, right):
                    place = value * groups + self._units.group_of_image[side]
                    sums = np.bincount(place[inside], None, values * groups)
                    ends[level, kind] += sums.reshape(values, groups)
            if self._units.labels is not None:
                counts = self.identity_counts[level, kind]
                for side in (left, right)[: 1 + kind]:
                    counts += np.bincount(self._units.labels[side], None, counts.size)

    def column_counts(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns of each column counts `(1 + t, 2, values)` and 95 % intervals.

        The first counts are of all pairs. Intervals of TPR and FPR are `(values, 2, t,
        2)`.
        """
        columns = []
        for ends in self._ends:
            intervals = [
                _intervals(value[0], np.moveaxis(value[1:], 0, 2), self._units.weights)
                for value in np.moveaxis(ends, 2, 0)
            ]
            columns.append((ends.sum(axis=3) // 2, np.stack(intervals)))
        return columns


def _intervals(ends, above, weights):
    """Returns 95 % intervals of TPR and FPR at each of t thresholds, `(2, t, 2)`.

    Wilson's, of as many independent pairs as give the variance between units (the delta
    method, the first order of resampling them). NaN where fewer than ten pairs lie on
    one side. `ends` `(2, groups)` counts the ends of pairs of either kind, `above`
    `(2, groups, t)` those above.
    """
    pairs, count = ends.sum(axis=1)[:, None] / 2, above.sum(axis=1) / 2
    rate = count / np.maximum(pairs, 1)
    rest = above - rate[:, None] * ends[:, :, None]
    units = np.maximum(np.count_nonzero(ends, axis=1), 2)[:, None]
    variance = np.square(rest).sum(axis=1) * np.square(weights)[:, None]
    variance *= units / (units - 1) / np.maximum(pairs, 1) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.minimum(rate * (1 - rate) / variance, pairs) / _NORMAL**2
        centre = (rate + 0.5 / size) / (1 + 1 / size)
        half = np.sqrt(rate * (1 - rate) / size + 0.25 / size**2) / (1 + 1 / size)
    intervals = np.stack([centre - half, centre + half], axis=2)
    intervals[np.minimum(count, pairs - count) < MIN_NEGATIVES] = np.nan
    return intervals
