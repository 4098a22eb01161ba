"""Bootstrap intervals over identities for the pairs of a labelled set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ekd_tf.evaluation.allpairs import PairBlocks
from ekd_tf.metrics import IdentityScores
from ekd_tf.metrics import RocPoint
from ekd_tf.metrics import identity_intervals

# Negatives kept per one that the whole set lets through: in a resample a few
# identities that weigh twice may double the count at the top.
_TAIL = 3


def labelled_intervals(
    blocks: PairBlocks,
    labels: np.ndarray,
    points: Sequence[RocPoint],
    replicates: int = 200,
    seed: int = 0,
    max_pairs: int = 1_000_000,
) -> dict[float, tuple[tuple[float, float], tuple[float, float]]]:
    """Gives 95 % intervals of TPR and threshold at operating points.

    One more pass over all pairs keeps the positives and the highest negatives.

    Args:
        blocks: The pairs.
        labels: Integer array `(n,)`, identities, as given to `blocks`.
        points: Operating points of the whole set.
        replicates: Int > 0, resamples of the identities.
        seed: Int, of the drawing.
        max_pairs: Int, the most pairs of a kind to keep; 16 bytes each.

    Returns:
        FPR -> `(interval of the TPR, interval of the threshold)`. An FPR is left out
        where it or the positives would take more than `max_pairs`.
    """
    identities, number, images = np.unique(
        labels, return_inverse=True, return_counts=True
    )
    positives = int((images * (images - 1) // 2).sum())
    chosen = [p for p in points if p.negatives_allowed * _TAIL <= max_pairs]
    if not chosen or positives > max_pairs:
        return {}
    keep = _TAIL * max(point.negatives_allowed for point in chosen)
    kept = _collect(blocks, number.reshape(-1), images, keep)
    fprs = [point.target_fpr for point in chosen]
    tpr, threshold = identity_intervals(kept, fprs, replicates, seed)
    return {
        fpr: (tuple(of_tpr), tuple(of_threshold))
        for fpr, of_tpr, of_threshold in zip(fprs, tpr.tolist(), threshold.tolist())
        if not np.isnan([*of_tpr, *of_threshold]).any()
    }


def _collect(blocks, number, images, keep):
    """Keeps all positives and the `keep` highest negatives with their identities."""
    positives, negatives = [], []
    floor, held = -np.inf, 0
    for block in blocks:
        rows, columns = number[block.rows], number[block.columns]
        if block.positive is not None:
            r, c = np.nonzero(block.positive)
            positives.append((block.cosine[r, c], rows[r]))
        high = block.cosine > floor
        if block.negative is not None:
            high &= block.negative
        r, c = np.nonzero(high)
        negatives.append((block.cosine[r, c], rows[r], columns[c]))
        held += r.size
        if held > 2 * keep:
            negatives = [_highest(negatives, keep)]
            held, floor = keep, negatives[0][0].min()
    negative, first, second = _highest(negatives, keep)
    positive, identity = map(np.concatenate, zip(*positives))
    return IdentityScores(
        images, positive, identity, negative, np.stack([first, second])
    )


def _highest(parts, keep):
    columns = [np.concatenate(column) for column in zip(*parts)]
    if columns[0].size <= keep:
        return tuple(columns)
    chosen = np.argpartition(-columns[0], keep - 1)[:keep]
    return tuple(column[chosen] for column in columns)
