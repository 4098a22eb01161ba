"""The ROC of positive and negative scores: operating points, AUC, EER, curve.

A pair is accepted when `score > threshold`, so one that ties with the threshold is
rejected. FPR, the fraction of negatives accepted, is also known as FAR, TPR as TAR.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ekd_tf.checks import check_range

# Points of a thinned curve: so many per decade of FPR, and as many evenly in TPR.
_PER_DECADE, _DECADES = 100, 10


def format_fpr(fpr: float) -> str:
    """Spells an FPR as metric names do: `1e-3`, `2.5e-4`, `1`; seven digits at most."""
    if fpr in (0, 1):
        return str(int(fpr))
    mantissa, exponent = f"{fpr:.6e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """A model at one target FPR.

    Attributes:
        target_fpr: The FPR asked for.
        fpr: The FPR reached, at most `target_fpr`; less when negatives tie.
        tpr: Fraction of positives above `threshold`.
        threshold: Score; pairs strictly above it are accepted.
        negatives_allowed: How many negatives the target lets through. With none, `tpr`
            is that at FPR 0: a lower bound.
    """

    target_fpr: float
    fpr: float
    tpr: float
    threshold: float
    negatives_allowed: int


@dataclasses.dataclass(frozen=True, eq=False)
class ROC:
    """Thresholds and how many scores of either kind lie above each.

    Attributes:
        thresholds: Float64 `(k + 1,)`, the distinct scores, falling, then -inf.
        positives: Int64 `(k + 1,)`, positive scores above each, from 0 to all.
        negatives: The same of negative scores.
    """

    thresholds: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray

    @classmethod
    def of(cls, positive_scores: np.ndarray, negative_scores: np.ndarray) -> ROC:
        """Counts scores, finite float arrays `(n,)`, at least one of each kind."""
        scores = _check_scores(
            positive_scores=positive_scores, negative_scores=negative_scores
        )
        values = np.unique(np.concatenate(scores))[::-1]
        above = [
            np.append(s.size - np.searchsorted(np.sort(s), values, "right"), s.size)
            for s in scores
        ]
        return cls(np.append(values, -np.inf), *above)

    @property
    def num_positive(self) -> int:
        return int(self.positives[-1])

    @property
    def num_negative(self) -> int:
        return int(self.negatives[-1])

    def points(self, fprs: Sequence[float]) -> tuple[OperatingPoint, ...]:
        """Finds the TPR at given FPRs by the strict rule: never above the target.

        The threshold is the smallest at which the fraction of negatives above it does
        not exceed the target: the negative of descending rank
        `floor(num_negatives * fpr)` (0-based), as in the EKD paper's miner. All pairs
        that tie with it are rejected: where all scores are equal the TPR is 0 at
        every FPR below 1. At FPR 1 the threshold is -inf.
        """
        targets = check_fprs(fprs)
        allowed = allowed_negatives(self.num_negative, targets)
        last = [np.searchsorted(self.negatives, n, "right") - 1 for n in allowed]
        return tuple(
            OperatingPoint(
                target_fpr=target,
                fpr=int(self.negatives[place]) / self.num_negative,
                tpr=int(self.positives[place]) / self.num_positive,
                threshold=float(self.thresholds[place]),
                negatives_allowed=count,
            )
            for target, count, place in zip(targets.tolist(), allowed.tolist(), last)
        )

    def nearest(self, fprs: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """Returns `(tpr, fpr)` of the points whose FPRs are nearest to given ones.

        Such an FPR may lie above the target, and so the TPR above that of `points`.
        Of equally near points the one of highest FPR counts.

        Reference:
            insightface `arcface_torch/eval_ijbc.py`, on scikit-learn's `roc_curve`,
            which leaves out points on a straight line between their neighbours: so do
            we, or another point could be the nearest.
        """
        targets = check_fprs(fprs)
        bends = (np.diff(self.negatives, 2) != 0) | (np.diff(self.positives, 2) != 0)
        kept = np.concatenate([[True], bends, [True]])
        fpr = self.negatives[kept][::-1] / self.num_negative
        tpr = self.positives[kept][::-1] / self.num_positive
        nearest = [int(np.argmin(np.abs(fpr - target))) for target in targets]
        return tpr[nearest], fpr[nearest]

    def auc(self) -> float:
        """Measures the area under the curve (Mann-Whitney); ties count half."""
        above_and_at = self.negatives[1:] + self.negatives[:-1]
        below = 2 * self.num_negative - above_and_at
        pairs = np.diff(self.positives).astype(np.float64) @ below
        return float(pairs) / (2 * self.num_positive * self.num_negative)

    def eer(self) -> float:
        """Measures the error rate where FPR and FNR (1 - TPR) are equal.

        The curve is taken as straight between its points.
        """
        fpr = self.negatives / self.num_negative
        fnr = 1 - self.positives / self.num_positive
        last = int(np.argmax(fpr >= fnr))
        beyond, before = fpr[last] - fnr[last], fnr[last - 1] - fpr[last - 1]
        part = beyond / (beyond + before)
        return float(fpr[last] + (fpr[last - 1] - fpr[last]) * part)

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns `(fpr, tpr)`, float64, rising from 0 to 1; at most 2,002 points.

        Of more points than that, those are kept that are the last within each FPR of a
        grid of 100 a decade, and the first of each of 1,000 even TPRs.
        """
        fpr = self.negatives / self.num_negative
        tpr = self.positives / self.num_positive
        count = _PER_DECADE * _DECADES
        if fpr.size <= 2 * count:
            return fpr, tpr
        # A power of ten may lie an ulp below the point it stands for.
        grid = 10.0 ** -(np.arange(count) / _PER_DECADE) * (1 + 1e-9)
        within = np.searchsorted(fpr, grid, side="right") - 1
        reached = np.searchsorted(tpr, np.linspace(0, 1, count))
        kept = np.unique(np.concatenate([within, reached, [0, fpr.size - 1]]))
        return fpr[kept], tpr[kept]


def tpr_within(curve: tuple[np.ndarray, np.ndarray], fprs: np.ndarray) -> np.ndarray:
    """Reads a ROC curve, two rising arrays, at FPRs: the TPR of its last point within.

    Float64 `(k,)`; 0 where the curve has no point within.
    """
    fpr, tpr = (np.asarray(axis, np.float64) for axis in curve)
    # 1e-3 written as a power of ten may lie an ulp below a point at 1e-3.
    last = np.searchsorted(fpr, np.asarray(fprs) * (1 + 1e-9), side="right") - 1
    return np.where(last >= 0, tpr[np.maximum(last, 0)], 0.0)


def allowed_negatives(
    num_negatives: int, fprs: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Counts the negatives each FPR lets through, int64.

    A plain `floor(num_negatives * fpr)` would lose one to rounding: `100 * 0.29` is
    28.999... .
    """
    targets = np.asarray(fprs, np.float64)
    count = np.floor(num_negatives * targets)
    count += (count + 1) / num_negatives <= targets
    count -= count / num_negatives > targets
    return count.astype(np.int64)


def check_fprs(fprs: Sequence[float]) -> np.ndarray:
    """Returns target FPRs as a float64 array; `ValueError` unless all in [0, 1]."""
    targets = np.asarray(fprs, np.float64)
    if targets.ndim != 1 or not targets.size:
        raise ValueError(f"`fprs` must be a list of FPRs. Received: fprs={fprs}")
    for target in targets.tolist():
        check_range("fprs", target, low=0, high=1)
    return targets


def check_kinds(num_positive: int, num_negative: int) -> None:
    """Raises `ValueError` unless there are scores of both kinds."""
    if not num_positive or not num_negative:
        raise ValueError(
            "A ROC needs pairs of both kinds, same identity and different. Received: "
            f"no {'negative' if num_positive else 'positive'} scores"
        )


def _check_scores(**scores):
    """Returns both kinds of scores in one float dtype, at least float32."""
    arrays = {name: np.asarray(values) for name, values in scores.items()}
    for name, values in arrays.items():
        bad = np.count_nonzero(~np.isfinite(values))
        if bad:
            raise ValueError(
                f"`{name}` must be finite. Received: {bad} of {values.size} values "
                "are NaN or infinite"
            )
    check_kinds(*(values.size for values in arrays.values()))
    dtype = np.result_type(np.float32, *arrays.values())
    return [values.astype(dtype, copy=False) for values in arrays.values()]
