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
        target_fpr, fpr: The FPR asked for, and the one reached: at most that, and less
            when negatives tie.
        tpr: Fraction of positives above `threshold`.
        threshold: Score; pairs strictly above it are accepted.
        negatives_allowed: How many negatives the target lets through.
    """

    target_fpr: float
    fpr: float
    tpr: float
    threshold: float
    negatives_allowed: int


@dataclasses.dataclass(frozen=True, eq=False)
class ROC:
    """Numbers of scores of either kind above each threshold, int64, from 0 to all.

    Thresholds are float64 `(k + 1,)`, the distinct scores, falling, then -inf.
    """

    thresholds: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray

    @classmethod
    def of(cls, positive_scores: np.ndarray, negative_scores: np.ndarray) -> ROC:
        """Counts scores, finite float arrays `(n,)`, at least one of each kind."""
        scores = np.asarray(positive_scores), np.asarray(negative_scores)
        check_kinds(*(kind.size for kind in scores))
        values = np.unique(np.concatenate(scores))[::-1]
        if not np.isfinite(values).all():
            raise ValueError("Scores must be finite. Received: NaN or infinite ones")
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

        The threshold is the negative of descending rank `floor(num_negatives * fpr)`
        (0-based), as in the EKD paper's miner. All pairs that tie with it are rejected:
        where all scores are equal the TPR is 0 at every FPR below 1. At FPR 1 the
        threshold is -inf.
        """
        targets = np.asarray(fprs, np.float64)
        for target in targets.tolist():
            check_range("fprs", target, low=0, high=1)
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
        # The point (0, 0) is put before the others later, so the first of them stays.
        turns = [np.diff(x[1:], 2) != 0 for x in (self.negatives, self.positives)]
        kept = np.ones(self.negatives.size, bool)
        kept[2:-1] = turns[0] | turns[1]
        fpr = self.negatives[kept][::-1] / self.num_negative
        tpr = self.positives[kept][::-1] / self.num_positive
        nearest = [int(np.argmin(np.abs(fpr - target))) for target in fprs]
        return tpr[nearest], fpr[nearest]

    def auc(self) -> float:
        """Measures the area under the curve (Mann-Whitney); ties count half."""
        above_and_at = self.negatives[1:] + self.negatives[:-1]
        below = 2 * self.num_negative - above_and_at
        pairs = np.diff(self.positives).astype(np.float64) @ below
        return float(pairs) / (2 * self.num_positive * self.num_negative)

    def eer(self) -> float:
        """Measures the rate where FPR and FNR (1 - TPR) are equal, between points."""
        fpr = self.negatives / self.num_negative
        fnr = 1 - self.positives / self.num_positive
        last = int(np.argmax(fpr >= fnr))
        beyond, before = fpr[last] - fnr[last], fnr[last - 1] - fpr[last - 1]
        part = beyond / (beyond + before)
        return float(fpr[last] + (fpr[last - 1] - fpr[last]) * part)

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns `(fpr, tpr)`, float64, rising from 0 to 1; at most 2,002 points.

        Of more points are kept the last within each FPR of a grid of 100 a decade, and
        the first of each of 1,000 even TPRs.
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
    """Returns a ROC curve's TPRs at its last points within some FPRs, 0 for none."""
    fpr, tpr = (np.asarray(axis, np.float64) for axis in curve)
    # 1e-3 written as a power of ten may lie an ulp below a point at 1e-3.
    last = np.searchsorted(fpr, np.asarray(fprs) * (1 + 1e-9), side="right") - 1
    return np.where(last >= 0, tpr[np.maximum(last, 0)], 0.0)


def allowed_negatives(
    num_negatives: int, fprs: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Counts the negatives each FPR lets through, int64."""
    targets = np.asarray(fprs, np.float64)
    # 100 * 0.29 is 28.999... .
    count = np.floor(num_negatives * targets)
    count += (count + 1) / num_negatives <= targets
    count -= count / num_negatives > targets
    return count.astype(np.int64)


def check_kinds(num_positive: int, num_negative: int) -> None:
    """Raises `ValueError` unless there are scores of both kinds."""
    if not num_positive or not num_negative:
        raise ValueError(
            "A ROC needs pairs of both kinds, same identity and different. Received: "
            f"no {'negative' if num_positive else 'positive'} scores"
        )
