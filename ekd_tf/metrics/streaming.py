"""ROCs of more scores than memory holds, exact where figures are read off.

One pass over all scores counts them by the upper 18 of the 32 bits of a float32; that
tells in which of these bins each wanted threshold lies. A second pass counts the
scores of those few bins by value: the thresholds a sort would have given, and the exact
numbers of pairs above them. Memory is that of the counters.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence

import numpy as np

from ekd_tf.metrics.roc import ROC
from ekd_tf.metrics.roc import allowed_negatives
from ekd_tf.metrics.roc import check_kinds

_LOW_BITS = 14
_LOW = 1 << _LOW_BITS
_BINS = 1 << (32 - _LOW_BITS)
# All bits of the exponent set: infinity and NaN.
_INFINITE = 0x7F800000 >> _LOW_BITS
# Bins from the highest finite score down: the bits of a negative float32 count its
# magnitude, so they rise as it falls.
_FALLING = np.concatenate(
    [np.arange(_INFINITE)[::-1], _BINS // 2 + np.arange(_INFINITE)]
)
# Scores counted at a time: their temporaries stay small beside the counters.
_CHUNK = 1 << 20

Scan = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]


def streamed_roc(scan: Scan, fprs: Sequence[float]) -> ROC:
    """Measures a ROC in two passes over the scores, in memory of 10 MB.

    Its points at `fprs` in [0, 1] and its EER are those of all scores. Elsewhere the
    scores of one bin, which differ by a five-hundredth at most, count as equal to its
    middle: the AUC is off by about 1e-6 for cosines of many images, by up to 1e-3 where
    all lie within 0.1, and by more of a few dozen pairs.

    `scan` is called twice and must give the same `(positive_scores, negative_scores)`
    blocks, to the bit: finite float32 `(k,)`, either may be empty. A block may be a
    buffer that the next one overwrites.
    """
    counts = _count(scan, lambda bits: bits >> _LOW_BITS, _BINS)
    coarse = counts[:, _FALLING]
    not_finite = int(counts.sum()) - int(coarse.sum())
    if not_finite:
        raise ValueError(
            f"Scores must be finite. Received: {not_finite} of {int(counts.sum())} "
            "values that are NaN or infinite"
        )
    reached = np.cumsum(coarse, axis=1)
    positives, negatives = reached[:, -1].tolist()
    check_kinds(positives, negatives)
    allowed = allowed_negatives(negatives, fprs)
    wanted = np.searchsorted(reached[1], allowed[allowed < negatives], side="right")
    # FPR rises and FNR falls from bin to bin: they cross in the first of these.
    crosses = reached[1] / negatives >= 1 - reached[0] / positives
    places = np.unique(np.append(wanted, np.argmax(crosses)))

    slots = np.full(_BINS, -1)
    slots[_FALLING[places]] = np.arange(places.size)
    is_wanted = slots >= 0

    def cells(bits):
        bits = bits[is_wanted[bits >> _LOW_BITS]]
        return slots[bits >> _LOW_BITS] * _LOW + (bits & (_LOW - 1))

    fine = _count(scan, cells, places.size * _LOW)
    sums = fine.reshape(2, places.size, _LOW).sum(axis=2)
    if (sums != coarse[:, places]).any():
        raise RuntimeError(
            "The second pass over the scores gave others than the first: `scan` must "
            "compute them in the same way each time"
        )
    coarse[:, places] = 0
    starts = _FALLING << _LOW_BITS
    bits = np.append(starts + _LOW // 2, starts[places, None] + np.arange(_LOW))
    counts = np.concatenate([coarse, fine], axis=1)
    filled = counts.any(axis=0)
    values = bits[filled].astype(np.uint32).view(np.float32)
    falling = np.argsort(-values)
    above = np.cumsum(counts[:, filled][:, falling], axis=1)
    above = np.concatenate([np.zeros((2, 1), np.int64), above], axis=1)
    return ROC(np.append(values[falling], -np.inf), *above)


def _count(scan, cells, size):
    """Counts both kinds of scores by the cells of their bits, int64 `(2, size)`."""
    counts = np.zeros((2, size), np.int64)
    for block in scan():
        for kind, scores in zip(counts, map(np.asarray, block)):
            if scores.dtype != np.float32 or scores.ndim != 1:
                raise ValueError(
                    "Scores must be float32 in 1 dimension. "
                    f"Received: shape {scores.shape}, dtype {scores.dtype}"
                )
            for start in range(0, scores.size, _CHUNK):
                # Minus zero has other bits than zero; adding zero makes it that.
                chunk = scores[start : start + _CHUNK] + np.float32(0)
                chosen = cells(chunk.view(np.uint32))
                if chosen.size:
                    kind += np.bincount(chosen, minlength=size)
    return counts
