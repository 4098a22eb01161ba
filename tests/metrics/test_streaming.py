import numpy as np
import pytest
from refusals import refused

from ekd_tf.metrics import ROC
from ekd_tf.metrics import streamed_roc

FPRS = (0.0, 1e-3, 0.01, 0.1, 0.29, 0.5, 0.999, 1.0)


def in_blocks(positive, negative, size=97):
    """A scan of float32 scores, both kinds in the same blocks, in a shared buffer."""
    positive, negative = (np.asarray(s, np.float32) for s in (positive, negative))
    buffer = np.empty(2 * size, np.float32)

    def scan():
        for start in range(0, max(positive.size, negative.size), size):
            parts = positive[start : start + size], negative[start : start + size]
            views = buffer[: parts[0].size], buffer[size : size + parts[1].size]
            for view, part in zip(views, parts):
                view[:] = part
            yield views

    return scan


# Functions of a generator, a number and a mean to so many scores.
KINDS = {
    "continuous": lambda rng, n, mean: rng.normal(mean, 0.2, n),
    "ties": lambda rng, n, mean: np.round(rng.normal(mean, 0.2, n), 1),
    "all equal": lambda rng, n, mean: np.full(n, 0.3),
    "zeros of both signs": lambda rng, n, mean: rng.choice([-0.0, 0, 1e-30, -1e-30], n),
    # Closer together than the first pass tells apart.
    "one bin": lambda rng, n, mean: 0.5 + rng.integers(0, 9, n) * 2.0**-24,
    "one bin below zero": lambda rng, n, mean: -0.5 - rng.integers(0, 9, n) * 2.0**-24,
}


@pytest.mark.parametrize("kind", KINDS)
def test_equals_sorting_all_scores(rng, kind):
    for _ in range(6):
        positive, negative = (
            KINDS[kind](rng, rng.integers(1, 400), mean).astype(np.float32)
            for mean in (0.4, 0.0)
        )
        roc = streamed_roc(in_blocks(positive, negative), FPRS)
        whole = ROC.of(positive, negative)
        assert roc.points(FPRS) == whole.points(FPRS)
        assert roc.eer() == pytest.approx(whole.eer(), abs=1e-12)
        assert (roc.num_positive, roc.num_negative) == (positive.size, negative.size)
        # Half the pairs that share a bin, the upper 18 bits of a float32.
        bins = [(s + np.float32(0)).view(np.uint32) >> 14 for s in (positive, negative)]
        error = np.mean(bins[0][:, None] == bins[1]) / 2
        assert roc.auc() == pytest.approx(whole.auc(), abs=error + 1e-12)


def test_rejects_scores_that_change_between_passes_or_make_no_curve():
    passes = iter([0.1, 0.2])

    def scan():
        score = np.full(5, next(passes), np.float32)
        yield score[:3], score

    refused("others than the first", streamed_roc, scan, (0.1,), error=RuntimeError)
    for value in (np.nan, np.inf, -np.inf, -np.nan):
        for scores in (([0.1, value], [0.3, 0.4]), ([0.1, 0.2], [0.3, value])):
            refused("finite.*1 of 4 values", streamed_roc, in_blocks(*scores), (0.1,))
    refused("no positive scores", streamed_roc, in_blocks([], [0.1]), (0.1,))
    # Its lower bits would be lost, and thresholds with them.
    scan = [(np.zeros(3), np.zeros(3))]
    refused("must be float32.*dtype float64", streamed_roc, lambda: scan, (0.1,))
