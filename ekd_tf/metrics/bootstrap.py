"""How far a figure would move had other identities or folds been drawn."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

# Percentiles of a 95 % interval.
_ENDS = (2.5, 97.5)


def fold_intervals(
    statistics: Callable[[np.ndarray], Sequence[float]],
    fold: np.ndarray,
    replicates: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """Resamples folds with replacement and gives 95 % intervals, `(figures, 2)`.

    Args:
        statistics: Function of row numbers, int `(k,)` with repeats, to figures.
        fold: Int array `(n,)`, values 0..folds-1: the fold of each row.
        replicates, seed: How many resamples, and the seed of the drawing.
    """
    rows = [np.flatnonzero(fold == k) for k in range(fold.max() + 1)]
    rng = np.random.default_rng(seed)
    figures = [
        statistics(np.concatenate([rows[k] for k in drawn]))
        for drawn in rng.integers(0, len(rows), (replicates, len(rows)))
    ]
    return np.percentile(figures, _ENDS, axis=0).T


def identity_intervals(
    images: np.ndarray,
    positive: tuple[np.ndarray, np.ndarray],
    negative: tuple[np.ndarray, np.ndarray, np.ndarray],
    fprs: Sequence[float],
    replicates: int = 200,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Resamples identities and gives 95 % intervals of TPRs and thresholds.

    Pairs of one identity are not independent, so identities are what is drawn: one
    drawn m times weighs m in a positive pair and m * m' in a negative pair with one
    drawn m' times. Each resample has its own threshold by the strict rule.

    Args:
        images: Int `(identities,)`, images of each identity.
        positive: All positive pairs: scores `(p,)` and their identities `(p,)`.
        negative: The highest negative pairs: scores `(k,)` and their two identities,
            `(k,)` each. About three times as many as the largest FPR lets through, as
            a resample may put the threshold below that of the whole.
        fprs, replicates, seed: As for `fold_intervals` and `ROC.points`.

    Returns:
        `(tpr, threshold)`, float64 `(len(fprs), 2)` each. NaN where in more than 1 %
        of the resamples the threshold lay below the negatives given.
    """
    targets = np.asarray(fprs, np.float64)
    rng = np.random.default_rng(seed)
    falling = np.argsort(-negative[0], kind="stable")
    highest, first, second = (column[falling] for column in negative)
    rising = np.argsort(positive[0], kind="stable")
    positive_scores, identity = (column[rising] for column in positive)
    identities = len(images)

    figures = np.full((replicates, 2, targets.size), np.nan)
    for replicate in range(replicates):
        drawn = rng.integers(0, identities, identities)
        times = np.bincount(drawn, minlength=identities)
        weights = (times * images).astype(np.float64)
        total = (weights.sum() ** 2 - (weights**2).sum()) / 2
        reached = np.cumsum(times[first] * times[second])
        place = np.asarray(np.searchsorted(reached, total * targets, side="right"))
        known = place < highest.size
        thresholds = highest[place[known]]
        mass = np.append(0, np.cumsum(times[identity]))
        below = mass[np.searchsorted(positive_scores, thresholds, side="right")]
        if mass[-1]:
            figures[replicate, 0, known] = 1 - below / mass[-1]
            figures[replicate, 1, known] = thresholds
    unknown = np.isnan(figures)
    ends = np.full((2, 2, targets.size), np.nan)
    for k in np.flatnonzero(unknown.any(axis=1).mean(axis=0) <= 0.01):
        ends[:, :, k] = np.nanpercentile(figures[:, :, k], _ENDS, axis=0)
    return ends[:, 0].T, ends[:, 1].T
