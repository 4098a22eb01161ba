"""TPR at the nearest FPR, as insightface's IJB evaluation takes it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ekd_tf.metrics.roc import check_fprs
from ekd_tf.metrics.roc import check_scores


def tpr_at_nearest_fpr(
    positive_scores: np.ndarray, negative_scores: np.ndarray, fprs: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the TPR at the point of the ROC whose FPR is nearest to each target.

    That FPR may lie above the target, so this TPR may exceed the one of the strict rule
    (`operating_points`). Of equally near points the one of highest FPR counts, and of
    one FPR the highest TPR.

    Args:
        positive_scores: Float array `(num_positives,)`.
        negative_scores: Float array `(num_negatives,)`.
        fprs: Target FPRs in [0, 1].

    Returns:
        `(tpr, fpr)`, float64 `(len(fprs),)` each: the TPR and the FPR it is really at.

    Reference:
        insightface `arcface_torch/eval_ijbc.py`, on scikit-learn's `roc_curve`, which
        leaves out points on a straight line between their neighbours: so do we, or
        another point could be the nearest.
    """
    targets = check_fprs(fprs)
    false, true = _counts_above(positive_scores, negative_scores)
    bends = (np.diff(false, 2) != 0) | (np.diff(true, 2) != 0)
    kept = np.concatenate([[True], bends, [True]])[: false.size]
    fpr = false[kept][::-1] / len(negative_scores)
    tpr = true[kept][::-1] / len(positive_scores)
    nearest = [int(np.argmin(np.abs(fpr - target))) for target in targets]
    return tpr[nearest], fpr[nearest]


def _counts_above(positive_scores, negative_scores):
    """Counts both kinds of scores above each that occurs, and above -inf.

    Returns:
        `(false, true)`, int32 arrays that rise from 0. Not fractions in float64: of
        the 16 million pairs of IJB-C they would take a gigabyte.
    """
    positive, negative = check_scores(positive_scores, negative_scores)
    falling = np.unique(np.concatenate([positive, negative]))[::-1]
    counts = []
    for scores in (negative, positive):
        above = scores.size - np.searchsorted(np.sort(scores), falling, side="right")
        counts.append(np.append(above.astype(np.int32), np.int32(scores.size)))
    return counts
