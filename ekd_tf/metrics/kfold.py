"""Verification accuracy by k folds, the figure reported for LFW and its kin."""

from __future__ import annotations

import numpy as np

from ekd_tf.checks import check_range
from ekd_tf.metrics.normalize import normalize_rows

# Written as upstream writes it: `i * 0.01` is not the double nearest to i / 100
# for every i, and a distance may fall between the two.
_THRESHOLDS = np.arange(0, 4, 0.01)


def squared_distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns squared L2 distances `2 - 2 * cosine` of rows `(pairs, dim)`, float64."""
    left = normalize_rows(left).astype(np.float64)
    right = normalize_rows(right).astype(np.float64)
    return np.square(left - right).sum(axis=1)


def kfold_accuracy(
    distances: np.ndarray, same: np.ndarray, folds: int = 10
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Measures accuracy on each fold at the threshold best for the others.

    For each fold of `folds_of`, the first of the thresholds 0, 0.01 .. 3.99 of best
    accuracy on all other folds is applied to it; a pair is accepted when
    `distance < threshold`.

    Args:
        distances: Float array `(pairs,)`, `squared_distances` of the embeddings.
        same: Bool array `(pairs,)`, whether the pair shows one identity; of both kinds.
        folds: From 2 to the number of pairs.

    Returns:
        Accuracy `(folds,)`, the squared distance `(folds,)` each was judged at, and
        whether each kind was cut by itself.

    Reference:
        insightface `arcface_torch/eval/verification.py` `calculate_roc`, whose
        folds are those of scikit-learn's `KFold` without shuffling, whatever kinds of
        pairs they hold.
    """
    same = np.asarray(same, bool)
    check_range("folds", folds, 2, same.size)
    fold, stratified = folds_of(same, folds)
    # Right answers, `(folds, thresholds)`.
    correct = np.stack(
        [np.bincount(fold, (distances < value) == same) for value in _THRESHOLDS],
        axis=1,
    )
    best = np.argmax(correct.sum(axis=0) - correct, axis=1)
    accuracy = correct[np.arange(folds), best] / np.bincount(fold)
    return accuracy, _THRESHOLDS[best], stratified


def best_accuracy(distances: np.ndarray, same: np.ndarray) -> float:
    """Finds the accuracy at the one threshold that is best for these very pairs."""
    same = np.asarray(same, bool)
    order = np.argsort(distances, kind="stable")
    ascending = distances[order]
    gains = np.cumsum(np.where(same[order], 1, -1))
    # Pairs that tie are accepted together, so only the last of them counts.
    last = np.append(ascending[1:] != ascending[:-1], True)
    rejected = int(np.count_nonzero(~same))
    return (rejected + max(int(gains[last].max()), 0)) / same.size


def folds_of(same: np.ndarray, folds: int) -> tuple[np.ndarray, bool]:
    """Cuts pairs into folds, contiguous in the order given wherever that is fair.

    The first `pairs % folds` folds are one pair longer. Where that leaves a fold less
    than half of its part of a kind, as in a list that gives all positives first, the
    threshold chosen on the other folds would be that of another mixture. Then the
    pairs of each kind are cut by themselves, in the order given.

    Returns:
        `(fold, stratified)`: int64 `(pairs,)`, each of 0..folds-1 in it, and whether
        each kind was cut by itself.
    """
    fold = _contiguous(same.size, folds)
    sizes = np.bincount(fold)
    positives = np.bincount(fold, weights=same)
    expected = sizes * same.mean()
    few = (2 * positives < expected) | (2 * (sizes - positives) < sizes - expected)
    if not few.any():
        return fold, False
    fold[same] = _contiguous(np.count_nonzero(same), folds)
    # From the last fold on, so that together they leave none empty.
    fold[~same] = (folds - 1 - _contiguous(np.count_nonzero(~same), folds))[::-1]
    return fold, True


def _contiguous(count, folds):
    return np.sort(np.arange(count) % folds)
