"""Searches of a gallery: ranks, and identification rates at thresholds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ekd_tf.checks import check_same_batch
from ekd_tf.metrics.normalize import normalize_rows
from ekd_tf.metrics.roc import ROC

# Scores in memory at a time, of a block of probes against the gallery.
_SCORES = 1 << 22


class GallerySearch:
    """Searches a gallery for each probe; more of the gallery may follow.

    Scores are cosines. A probe whose identity is in the gallery has a mate: the
    gallery row of that identity with the highest score. Its rank is one more than the
    number of rows of other identities that score at least as high, so ties count
    against the mate and a collapsed model is at the end of the list.

    Args:
        probes, gallery: Float `(rows, dim)`, at least one row each. Normalised here.
        probe_identity, gallery_identity: Integer arrays `(rows,)`.

    Attributes:
        mated: Bool `(probes,)`, whether the probe's identity is in the gallery.
        mate_score: Float32 `(probes,)`; -inf for probes without a mate.
        best_other: Float32 `(probes,)`, highest score of a row of another identity;
            -inf where there is none.
    """

    def __init__(
        self,
        probes: np.ndarray,
        probe_identity: np.ndarray,
        gallery: np.ndarray,
        gallery_identity: np.ndarray,
    ):
        self._probes = _unit(probes)
        gallery = _unit(gallery)
        check_same_batch(probes=self._probes, probe_identity=probe_identity)
        check_same_batch(gallery=gallery, gallery_identity=gallery_identity)
        count = len(self._probes)
        self.mated = np.isin(probe_identity, gallery_identity)
        self.mate_score = np.full(count, -np.inf, np.float32)
        self.best_other = np.full(count, -np.inf, np.float32)
        self._above = np.zeros(count, np.int64)
        for part, scores in self._scores(gallery):
            same = probe_identity[part, None] == gallery_identity
            self.mate_score[part] = np.where(same, scores, -np.inf).max(axis=1)
            self._add(part, np.where(same, -np.inf, scores))

    @property
    def rank(self) -> np.ndarray:
        """Int64 `(probes,)`, from 1; 0 for probes without a mate."""
        return np.where(self.mated, self._above + 1, 0)

    def add_distractors(self, embeddings: np.ndarray) -> None:
        """Adds gallery rows `(k, dim)` of identities that no probe shows; k >= 1."""
        for part, scores in self._scores(_unit(embeddings)):
            self._add(part, scores)

    def _scores(self, gallery):
        step = max(1, _SCORES // len(gallery))
        for start in range(0, len(self._probes), step):
            part = slice(start, start + step)
            yield part, self._probes[part] @ gallery.T

    def _add(self, part, others):
        """Takes in the scores of rows of other identities, -inf for the mate's."""
        mate = self.mate_score[part, None]
        self._above[part] += np.count_nonzero(others >= mate, axis=1)
        self.best_other[part] = np.maximum(self.best_other[part], others.max(axis=1))


def tpir_at_fpir(
    mate_score: np.ndarray,
    rank: np.ndarray,
    best_unknown: np.ndarray,
    fpirs: Sequence[float],
) -> np.ndarray:
    """Finds identification rates where searches of unknown people seldom return one.

    The threshold is the smallest at which the fraction of non-mated searches that
    return anyone above it does not exceed the FPIR. A mated search succeeds when the
    mate is first and above the threshold.

    Args:
        mate_score, rank: Of searches whose identity is enrolled, `(mated,)`.
        best_unknown: The highest score of each other search, `(unknown,)`.
        fpirs: Target FPIRs in [0, 1].

    Reference:
        NIST's open-set identification with one candidate (IJB-C). insightface counts
        every false gallery entry of a mated search instead, so its TPIRs differ.
    """
    points = ROC.of(mate_score, best_unknown).points(fpirs)
    first = mate_score[rank == 1].astype(np.float64)
    accepted = [np.count_nonzero(first > point.threshold) for point in points]
    return np.array(accepted) / len(mate_score)


def _unit(rows):
    return normalize_rows(rows).astype(np.float32, copy=False)
