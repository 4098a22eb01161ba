"""ROC figures from the scores of positive and negative pairs.

One rule everywhere: scores are similarities and a pair is accepted when
`score > threshold`, so a pair that ties with the threshold is rejected. FPR, the
fraction of negatives accepted, is also known as FAR, and TPR as TAR.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ekd_tf.checks import check_range


def format_fpr(fpr: float) -> str:
    """Spells an FPR as metric names do: `1e-3`, `2.5e-4`, `1` for all.

    At most seven digits, without trailing zeros.
    """
    if fpr in (0, 1):
        return str(int(fpr))
    mantissa, exponent = f"{fpr:.6e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


@dataclasses.dataclass(frozen=True)
class RocPoint:
    """A model's operating point for one target FPR.

    Attributes:
        target_fpr: The FPR asked for.
        fpr: The FPR reached, at most `target_fpr`; less when negatives tie.
        tpr: Fraction of positives above `threshold`.
        threshold: Score; pairs strictly above it are accepted.
        negatives_allowed: How many negatives the target lets through, the count on
            which the figure rests. With none, `tpr` is that at FPR 0: a lower bound.
    """

    target_fpr: float
    fpr: float
    tpr: float
    threshold: float
    negatives_allowed: int


def operating_points(
    positive_scores: np.ndarray, negative_scores: np.ndarray, fprs: Sequence[float]
) -> tuple[RocPoint, ...]:
    """Finds the TPR at given FPRs by the strict rule: never above the target.

    The threshold is the smallest at which the fraction of negatives above it does not
    exceed the target: the negative of descending rank `floor(num_negatives * fpr)`
    (0-based), as in the EKD paper's miner. Negatives that tie with it are rejected
    together, and so are positives: where all scores are equal the TPR is 0 at every
    FPR below 1. At FPR 1 the threshold is -inf.

    Args:
        positive_scores: Float array `(num_positives,)`.
        negative_scores: Float array `(num_negatives,)`, in any order.
        fprs: Target FPRs in [0, 1].

    Returns:
        One `RocPoint` per target, in the order of `fprs`.

    Raises:
        ValueError: A score is not finite, there are no positives or no negatives, or
            an FPR is outside [0, 1].
    """
    positive, negative = check_scores(positive_scores, negative_scores)
    targets = check_fprs(fprs)
    allowed = allowed_negatives(negative.size, targets)
    ranks = negative.size - 1 - allowed
    wanted = np.unique(ranks[ranks >= 0])
    partitioned = np.partition(negative, wanted) if wanted.size else negative
    points = []
    for target, count, rank in zip(targets.tolist(), allowed.tolist(), ranks.tolist()):
        threshold = partitioned[rank] if rank >= 0 else -np.inf
        points.append(
            RocPoint(
                target_fpr=target,
                fpr=float(np.mean(negative > threshold)),
                tpr=float(np.mean(positive > threshold)),
                threshold=float(threshold),
                negatives_allowed=count,
            )
        )
    return tuple(points)


def tpr_at_fpr(
    positive_scores: np.ndarray, negative_scores: np.ndarray, fprs: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns TPRs and thresholds of `operating_points`, float64 `(len(fprs),)`."""
    points = operating_points(positive_scores, negative_scores, fprs)
    return (
        np.array([point.tpr for point in points]),
        np.array([point.threshold for point in points]),
    )


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
    positive, negative = check_scores(positive_scores, negative_scores)
    falling = np.unique(np.concatenate([positive, negative]))[::-1]
    # Counts in int32: of the 16 million pairs of IJB-C fractions in float64 would take
    # a gigabyte.
    false, true = (
        np.append(
            scores.size - np.searchsorted(np.sort(scores), falling, side="right"),
            scores.size,
        ).astype(np.int32)
        for scores in (negative, positive)
    )
    bends = (np.diff(false, 2) != 0) | (np.diff(true, 2) != 0)
    kept = np.concatenate([[True], bends, [True]])[: false.size]
    fpr = false[kept][::-1] / negative.size
    tpr = true[kept][::-1] / positive.size
    nearest = [int(np.argmin(np.abs(fpr - target))) for target in targets]
    return tpr[nearest], fpr[nearest]


def allowed_negatives(num_negatives: int, fprs: Sequence[float]) -> np.ndarray:
    """Counts the negatives each FPR lets through.

    Returns:
        Int64 array: the largest count whose quotient by `num_negatives` is at most
        the FPR. A plain `floor(num_negatives * fpr)` would lose one to rounding
        (`100 * 0.29` is 28.999...).
    """
    fprs = np.asarray(fprs, np.float64)
    count = np.floor(num_negatives * fprs)
    count += (count + 1) / num_negatives <= fprs
    count -= count / num_negatives > fprs
    return count.astype(np.int64)


def roc_curve(
    positive_scores: np.ndarray,
    negative_scores: np.ndarray,
    max_points: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Traces TPR against FPR from threshold `max(score)` down to -inf.

    Args:
        positive_scores: Float array `(num_positives,)`.
        negative_scores: Float array `(num_negatives,)`.
        max_points: Int >= 3, or None for a point at every distinct score. A thinned
            curve keeps exact points: half lie evenly in the logarithm of the FPR and
            half evenly in TPR.

    Returns:
        `(fpr, tpr, thresholds)`, float64 `(points,)` each; `fpr` and `tpr` rise from 0
        to 1, `thresholds` fall.
    """
    positive, negative = map(np.sort, check_scores(positive_scores, negative_scores))
    if max_points is None:
        chosen = np.concatenate([positive, negative])
    else:
        check_range("max_points", max_points, low=3)
        # Two places are kept for the ends of the curve.
        by_tpr = (max_points - 2) // 2
        by_fpr = max_points - 2 - by_tpr
        falls = np.geomspace(1, negative.size, by_fpr).astype(np.int64)
        rises = np.linspace(0, positive.size - 1, by_tpr).astype(np.int64)
        top = max(positive[-1], negative[-1])
        chosen = np.concatenate([positive[rises], negative[-falls], [top]])
    thresholds = np.append(np.unique(chosen)[::-1].astype(np.float64), -np.inf)
    return (
        _fraction_above(negative, thresholds),
        _fraction_above(positive, thresholds),
        thresholds,
    )


def auc(positive_scores: np.ndarray, negative_scores: np.ndarray) -> float:
    """Measures the area under the ROC curve.

    The probability that a positive scores above a negative, ties counting half
    (Mann-Whitney), so all-equal scores give 0.5. Arguments and errors as `roc_curve`.
    """
    positive, negative = map(np.sort, check_scores(positive_scores, negative_scores))
    below = np.searchsorted(negative, positive, side="left")
    not_above = np.searchsorted(negative, positive, side="right")
    return int(below.sum() + not_above.sum()) / (2 * positive.size * negative.size)


def equal_error_rate(positive_scores: np.ndarray, negative_scores: np.ndarray) -> float:
    """Measures the error rate where FPR and FNR (1 - TPR) are equal.

    Scores are discrete, so the two seldom meet exactly: the ROC curve is taken as
    straight between its points, and all-equal scores give 0.5. Arguments and errors as
    `roc_curve`.
    """
    positive, negative = map(np.sort, check_scores(positive_scores, negative_scores))

    def rates(threshold):
        return (
            float(_fraction_above(negative, threshold)),
            1.0 - float(_fraction_above(positive, threshold)),
        )

    # FPR - FNR falls as the threshold rises, so halving finds the pair of neighbouring
    # scores between which it changes sign, without a curve of every distinct score.
    lower, upper = -np.inf, np.inf
    for scores in (positive, negative):
        first, last = 0, scores.size
        while first < last:
            middle = (first + last) // 2
            fpr, fnr = rates(scores[middle])
            if fpr >= fnr:
                first = middle + 1
            else:
                last = middle
        if first > 0:
            lower = max(lower, scores[first - 1])
        if first < scores.size:
            upper = min(upper, scores[first])
    return crossing(rates(lower), rates(upper))


def crossing(below: tuple[float, float], above: tuple[float, float]) -> float:
    """Finds where two rates are equal on the straight line between two points.

    Args:
        below: `(fpr, fnr)` with `fpr >= fnr`.
        above: `(fpr, fnr)` at a higher threshold, with `fpr < fnr`.
    """
    (fpr, fnr), (next_fpr, next_fnr) = below, above
    before, after = fpr - fnr, next_fnr - next_fpr
    return fpr + (next_fpr - fpr) * before / (before + after)


def check_fprs(fprs: Sequence[float]) -> np.ndarray:
    """Returns target FPRs as a float64 array; `ValueError` unless all in [0, 1]."""
    targets = np.asarray(fprs, np.float64)
    if targets.ndim != 1 or not targets.size:
        raise ValueError(f"`fprs` must be a list of FPRs. Received: fprs={fprs}")
    for target in targets.tolist():
        check_range("fprs", target, low=0, high=1)
    return targets


def _fraction_above(ascending, thresholds):
    # In the scores' own dtype, or NumPy would convert all scores first.
    thresholds = np.asarray(thresholds, ascending.dtype)
    above = ascending.size - np.searchsorted(ascending, thresholds, side="right")
    return above / ascending.size


def check_scores(
    positive_scores: np.ndarray, negative_scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns both sets of scores in one float dtype, at least float32.

    Raises:
        ValueError: A set is empty, has another dimension than 1, or holds a value that
            is not finite.
    """
    scores = {
        "positive_scores": np.asarray(positive_scores),
        "negative_scores": np.asarray(negative_scores),
    }
    for name, values in scores.items():
        if values.ndim != 1:
            raise ValueError(
                f"`{name}` must have 1 dimension. Received: {name}.shape={values.shape}"
            )
        if not values.size:
            raise ValueError(
                "A ROC needs pairs of both kinds, same identity and different. "
                f"Received: no {name}"
            )
        if not np.isfinite(values).all():
            raise ValueError(
                f"`{name}` must be finite. Received: "
                f"{np.count_nonzero(~np.isfinite(values))} of {values.size} values "
                "are NaN or infinite"
            )
    dtype = np.result_type(np.float32, *scores.values())
    return tuple(values.astype(dtype, copy=False) for values in scores.values())
