"""ROC figures of more scores than memory holds, exact to the last bit.

A float32 has 32 bits. One pass over all scores counts them by their upper 18 bits;
that tells in which of these bins each wanted threshold lies. A second pass counts the
scores of those few bins by their lower 14 bits, which leaves single values: the
threshold a sort would have given, and the exact numbers of pairs above it. Memory is
that of the counters, whatever the number of scores and however many of them tie.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence

import numpy as np

from ekd_tf.checks import check_range
from ekd_tf.metrics.roc import RocPoint
from ekd_tf.metrics.roc import allowed_negatives
from ekd_tf.metrics.roc import check_fprs
from ekd_tf.metrics.roc import crossing

_LOW_BITS = 14
_LOW = 1 << _LOW_BITS
_BINS = 1 << (32 - _LOW_BITS)
_SIGN = _BINS >> 1
# All bits of the exponent set: infinity and NaN.
_INFINITE = 0x7F800000 >> _LOW_BITS
# Bins from the highest finite score down: the bits of a negative float32 count its
# magnitude, so they rise as it falls.
_DESCENDING = np.concatenate(
    [np.arange(_INFINITE)[::-1], np.arange(_SIGN, _SIGN + _INFINITE)]
)
_NOT_FINITE = np.setdiff1d(np.arange(_BINS), _DESCENDING)
# Scores counted at a time: their temporaries stay small beside the counters.
_CHUNK = 1 << 20

Scan = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]


@dataclasses.dataclass(frozen=True)
class StreamedRoc:
    """What `streamed_roc` measured.

    Attributes:
        points: One `RocPoint` per target, equal to those of `operating_points`.
        eer: Equal error rate, equal to that of `equal_error_rate`.
        auc: Area under the ROC curve, within `auc_error` of that of `auc`.
        auc_error: Half the share of pairs of a positive and a negative that lie in
            one bin, about 1e-6 for cosines of many images.
        num_positive: Number of positive scores.
        num_negative: Number of negative scores.
        values: Float32 `(bins,)`, the middle of each bin that holds a score, falling.
        positive_counts: Int64 `(bins,)`, positives in it.
        negative_counts: Int64 `(bins,)`, negatives in it.
    """

    points: tuple[RocPoint, ...]
    eer: float
    auc: float
    auc_error: float
    num_positive: int
    num_negative: int
    values: np.ndarray
    positive_counts: np.ndarray
    negative_counts: np.ndarray

    def curve(self, max_points: int = 2000) -> tuple[np.ndarray, np.ndarray]:
        """Returns exact points of the ROC curve: those between bins, and the targets'.

        All cosines of a collapsed model lie in a few bins; its curve is steps between
        the targets.

        Args:
            max_points: Int >= 3, about how many; spread as `roc_curve` does.

        Returns:
            `(fpr, tpr)`, float64, rising from 0 to 1.
        """
        fpr = np.append(0, np.cumsum(self.negative_counts)) / self.num_negative
        tpr = np.append(0, np.cumsum(self.positive_counts)) / self.num_positive
        check_range("max_points", max_points, low=3)
        half = max_points // 2
        smallest = 1 / self.num_negative
        by_fpr = np.searchsorted(fpr, np.geomspace(smallest, 1, half))
        by_tpr = np.searchsorted(tpr, np.linspace(0, 1, half))
        ends = [0, fpr.size - 1]
        kept = np.unique(np.concatenate([by_fpr, by_tpr, ends]).clip(*ends))
        fpr = np.append(fpr[kept], [point.fpr for point in self.points])
        tpr = np.append(tpr[kept], [point.tpr for point in self.points])
        rising = np.lexsort([tpr, fpr])
        return fpr[rising], tpr[rising]


def streamed_roc(scan: Scan, fprs: Sequence[float]) -> StreamedRoc:
    """Measures a ROC in two passes over the scores, in memory of 10 MB.

    Args:
        scan: Function that returns an iterable of `(positive_scores,
            negative_scores)` blocks: float32 arrays `(k,)`, either may be empty. It
            is called twice and must give the same scores, to the bit. A block may be
            a buffer that the next one overwrites.
        fprs: Target FPRs in [0, 1], by the strict rule of `operating_points`.

    Raises:
        ValueError: A score is not finite or not float32, there are no positives or no
            negatives, or an FPR is outside [0, 1].
        RuntimeError: The second pass gave other scores than the first.
    """
    targets = check_fprs(fprs)
    positive, negative = _count_bins(scan)
    positives, negatives = int(positive.sum()), int(negative.sum())
    for name, count in (("positive", positives), ("negative", negatives)):
        if not count:
            raise ValueError(
                "A ROC needs pairs of both kinds, same identity and different. "
                f"Received: no {name} scores"
            )
    allowed = allowed_negatives(negatives, targets)
    above = np.stack([np.cumsum(positive), np.cumsum(negative)])
    wanted = np.searchsorted(above[1], allowed[allowed < negatives], side="right")
    # FPR rises and FNR falls from bin to bin: they cross in the first of these.
    crosses = above[1] / negatives >= 1 - above[0] / positives
    middle = int(np.argmax(crosses))
    refined = _refine(scan, np.unique(np.append(wanted, middle)), positive, negative)

    points = []
    for target, count in zip(targets.tolist(), allowed.tolist()):
        place = int(np.searchsorted(above[1], count, side="right"))
        points.append(
            _point(target, count, refined.get(place), above[:, :place], above[:, -1])
        )
    filled = np.flatnonzero(positive + negative)
    tied = float(positive.astype(np.float64) @ negative) / positives / negatives
    return StreamedRoc(
        points=tuple(points),
        eer=_eer(refined[middle], above[:, :middle], above[:, -1]),
        auc=float(
            (positive.astype(np.float64) / positives)
            @ ((negatives - above[1] + negative / 2) / negatives)
        ),
        auc_error=tied / 2,
        num_positive=positives,
        num_negative=negatives,
        values=_floats((_DESCENDING[filled] << _LOW_BITS) + _LOW // 2),
        positive_counts=positive[filled],
        negative_counts=negative[filled],
    )


def _point(target, allowed, refined, above, totals):
    """Reads one operating point off the values of its bin."""
    if refined is None:
        return RocPoint(target, 1.0, 1.0, -np.inf, allowed)
    values, counts = refined
    reached = np.cumsum(counts, axis=1) + _last(above)[:, None]
    place = int(np.searchsorted(reached[1], allowed, side="right"))
    positives, negatives = (reached[:, place] - counts[:, place]) / totals
    return RocPoint(
        target_fpr=target,
        fpr=float(negatives),
        tpr=float(positives),
        threshold=float(values[place]),
        negatives_allowed=allowed,
    )


def _eer(refined, above, totals):
    """Finds where FPR and FNR cross among the values of one bin."""
    _, counts = refined
    # Points from the one above the highest value to the one below the lowest.
    reached = np.cumsum(counts, axis=1) + _last(above)[:, None]
    reached = np.concatenate([_last(above)[:, None], reached], axis=1)
    tpr, fpr = reached / totals[:, None]
    last = int(np.argmax(fpr >= 1 - tpr))
    return crossing(
        (float(fpr[last]), 1 - float(tpr[last])),
        (float(fpr[last - 1]), 1 - float(tpr[last - 1])),
    )


def _last(above):
    return above[:, -1] if above.shape[1] else np.zeros(2, np.int64)


def _count_bins(scan):
    """Counts both kinds of scores by their upper bits, int64, highest bin first."""
    counts = np.zeros((2, _BINS), np.int64)
    for block in scan():
        for kind, scores in enumerate(block):
            for bits in _bits(scores):
                counts[kind] += np.bincount(bits >> _LOW_BITS, minlength=_BINS)
    not_finite = int(counts[:, _NOT_FINITE].sum())
    if not_finite:
        raise ValueError(
            f"Scores must be finite. Received: {not_finite} of {int(counts.sum())} "
            "values that are NaN or infinite"
        )
    return counts[:, _DESCENDING]


def _refine(scan, places, positive, negative):
    """Counts the scores of a few bins by value."""
    slots = np.full(_BINS, -1, np.int32)
    slots[_DESCENDING[places]] = np.arange(len(places))
    is_wanted = slots >= 0
    counts = np.zeros((2, len(places) * _LOW), np.int64)
    for block in scan():
        for kind, scores in enumerate(block):
            for bits in _bits(scores):
                chosen = bits[is_wanted[bits >> _LOW_BITS]]
                if chosen.size:
                    cells = slots[chosen >> _LOW_BITS] * _LOW + (chosen & (_LOW - 1))
                    counts[kind] += np.bincount(cells, minlength=counts.shape[1])
    counts = counts.reshape(2, len(places), _LOW)
    if (counts.sum(axis=2) != np.stack([positive, negative])[:, places]).any():
        raise RuntimeError(
            "The second pass over the scores gave others than the first: `scan` must "
            "compute them in the same way each time"
        )
    refined = {}
    for slot, place in enumerate(places.tolist()):
        filled = np.flatnonzero(counts[:, slot].any(axis=0))
        if _DESCENDING[place] < _SIGN:
            filled = filled[::-1]
        values = _floats((_DESCENDING[place] << _LOW_BITS) + filled)
        refined[place] = (values, counts[:, slot][:, filled])
    return refined


def _bits(scores):
    """Yields the bits of chunks of scores, uint32."""
    scores = np.asarray(scores)
    if scores.dtype != np.float32 or scores.ndim != 1:
        raise ValueError(
            "Scores must be float32 in 1 dimension. "
            f"Received: shape {scores.shape}, dtype {scores.dtype}"
        )
    for start in range(0, scores.size, _CHUNK):
        # Minus zero equals zero but has other bits; adding zero makes it plus zero.
        yield (scores[start : start + _CHUNK] + np.float32(0)).view(np.uint32)


def _floats(bits):
    return np.asarray(bits, np.uint32).view(np.float32)
