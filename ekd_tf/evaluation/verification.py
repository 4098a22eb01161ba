"""How well embeddings verify identities: accuracy, TPR at FPRs, AUC, EER."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ekd_tf.checks import check_range
from ekd_tf.evaluation.allpairs import all_pair_scores
from ekd_tf.evaluation.allpairs import check_labels
from ekd_tf.evaluation.allpairs import count_pairs
from ekd_tf.evaluation.tables import format_fpr
from ekd_tf.metrics import RocPoint
from ekd_tf.metrics import auc
from ekd_tf.metrics import equal_error_rate
from ekd_tf.metrics import kfold_accuracy
from ekd_tf.metrics import operating_points
from ekd_tf.metrics import squared_distances

# A TPR whose threshold rests on fewer negatives than this is mostly chance: with
# 10 the FPR really reached is uncertain by about a third.
MIN_NEGATIVES = 10


@dataclasses.dataclass(frozen=True)
class VerificationReport:
    """What `verify` measured.

    Attributes:
        accuracy_mean: Float in [0, 1], mean k-fold accuracy on drawn pairs.
        accuracy_std: Float, population standard deviation over the folds.
        threshold: Float, cosine: mean of the thresholds the folds chose.
        tpr: FPR -> TPR in [0, 1], or None where the FPR is not measurable.
        thresholds: FPR -> cosine threshold, or None likewise.
        auc: Float in [0, 1], area under the ROC curve of all pairs.
        eer: Float in [0, 1], equal error rate of all pairs.
        num_positive: Number of positive pairs behind `tpr`, `auc` and `eer`.
        num_negative: Number of negative pairs behind them.
        num_pairs: Number of pairs drawn for the accuracy, half of them positive.
    """

    accuracy_mean: float
    accuracy_std: float
    threshold: float
    tpr: dict[float, float | None]
    thresholds: dict[float, float | None]
    auc: float
    eer: float
    num_positive: int
    num_negative: int
    num_pairs: int

    @property
    def not_measurable(self) -> tuple[str, ...]:
        """One sentence for each FPR that has too few negatives behind it."""
        return tuple(
            not_measurable(fpr, self.num_negative)
            for fpr, tpr in self.tpr.items()
            if tpr is None
        )

    def to_dict(self) -> dict:
        """Returns the report as JSON can hold it, FPRs spelled as `1e-3`."""
        report = dataclasses.asdict(self)
        for name in ("tpr", "thresholds"):
            report[name] = {format_fpr(k): v for k, v in report[name].items()}
        report["not_measurable"] = list(self.not_measurable)
        return report


def verify(
    embeddings: np.ndarray,
    labels: np.ndarray,
    fprs: Sequence[float] = (1e-1, 1e-2, 1e-3, 1e-4),
    folds: int = 10,
    pairs: int = 6000,
    seed: int = 0,
) -> VerificationReport:
    """Measures verification of identities the model was not trained on.

    Accuracy comes from k folds over drawn pairs, half of them positive, so that it
    reads like that of LFW. TPR at FPR (strict rule: never above the target), AUC
    and EER come from all pairs. An FPR with fewer than 10 negatives behind it is
    not measurable: its TPR and threshold are None.

    Args:
        embeddings: Float array `(n, dim)`. Normalised here.
        labels: Integer array `(n,)`, identities.
        fprs: Target FPRs in [0, 1].
        folds: Int >= 2.
        pairs: Even int, how many pairs to draw. A set with fewer positive or
            negative pairs than half of it gives as many of each as the rarer kind
            has; `num_pairs` of the report says how many were drawn.
        seed: Int, of the drawing.

    Returns:
        `VerificationReport`.

    Raises:
        ValueError: No identity has two images, there is one identity only, or an
            embedding is not finite or all zero.
    """
    labels = check_labels(labels, embeddings=embeddings)
    check_two_kinds(labels)
    embeddings = np.asarray(embeddings)
    available = count_pairs(labels)
    each = min(pairs // 2, *available)
    if 2 * each < folds:
        raise ValueError(
            f"`folds` must be at most the number of pairs drawn. Received: "
            f"folds={folds}, pairs={pairs}, and images of {available[0]} positive "
            f"and {available[1]} negative pairs, of which {2 * each} can be drawn"
        )
    left, right, same = draw_pairs(labels, each, each, seed)
    accuracy = kfold_accuracy(
        squared_distances(embeddings[left], embeddings[right]), same, folds=folds
    )
    positive, negative = all_pair_scores(embeddings, labels)
    points = operating_points(positive, negative, fprs)
    return VerificationReport(
        accuracy_mean=accuracy.mean,
        accuracy_std=accuracy.std,
        threshold=float(1 - accuracy.thresholds.mean() / 2),
        tpr={p.target_fpr: p.tpr if is_measurable(p) else None for p in points},
        thresholds={
            p.target_fpr: p.threshold if is_measurable(p) else None for p in points
        },
        auc=auc(positive, negative),
        eer=equal_error_rate(positive, negative),
        num_positive=positive.size,
        num_negative=negative.size,
        num_pairs=2 * each,
    )


def draw_pairs(
    labels: np.ndarray, positives: int, negatives: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws pairs of images, each unordered pair at most once.

    Positives are spread over identities: none gives its second pair before every
    identity that can has given its first, and so on. Negatives are uniform over all
    pairs of different identities. The two kinds alternate in proportion, so that
    contiguous folds are balanced.

    Args:
        labels: Integer array `(n,)`, identities.
        positives: Int >= 0, how many pairs of one identity.
        negatives: Int >= 0, how many pairs of two identities.
        seed: Int. The same labels and seed give the same pairs.

    Returns:
        `(left, right, same)`: int64 row numbers `(positives + negatives,)` twice,
        and bool.

    Raises:
        ValueError: More pairs of a kind are asked for than there are.
    """
    labels = check_labels(labels)
    available = count_pairs(labels)
    check_range("positives", positives, low=0, high=available[0])
    check_range("negatives", negatives, low=0, high=available[1])
    rng = np.random.default_rng(seed)

    # Sorted by identity, identity k fills places starts[k] .. starts[k + 1] - 1:
    # an image's positive partners are the places after it inside that range, its
    # negative partners all places after the range, and every unordered pair has
    # one number.
    order = np.argsort(labels, kind="stable")
    _, sizes = np.unique(labels, return_counts=True)
    ends = np.repeat(np.cumsum(sizes), sizes)
    places = np.arange(labels.size)
    chosen = rng.permutation(_spread(sizes, positives, rng))
    positive = _decode(chosen, ends - 1 - places, places + 1)
    chosen = rng.choice(available[1], negatives, replace=False)
    negative = _decode(chosen, labels.size - ends, ends)

    same = np.arange(positives + negatives) < positives
    when = np.concatenate(
        [(np.arange(count) + 0.5) / max(count, 1) for count in (positives, negatives)]
    )
    mixed = np.argsort(when, kind="stable")
    left, right = order[np.concatenate([positive, negative], axis=1)][:, mixed]
    return left, right, same[mixed]


def _spread(sizes, wanted, rng):
    """Picks numbers of positive pairs, as equally many per identity as there are."""
    counts = sizes * (sizes - 1) // 2
    level, high = 0, wanted
    while level < high:
        middle = (level + high + 1) // 2
        if np.minimum(counts, middle).sum() <= wanted:
            level = middle
        else:
            high = middle - 1
    quota = np.minimum(counts, level)
    richer = rng.permutation(np.flatnonzero(counts > level))
    quota[richer[: wanted - quota.sum()]] += 1
    first = np.cumsum(counts) - counts
    return np.concatenate(
        [np.empty(0, np.int64)]
        + [
            first[k] + rng.choice(counts[k], quota[k], replace=False)
            for k in np.flatnonzero(quota)
        ]
    )


def _decode(numbers, partners, first_partner):
    """Turns numbers of pairs into places `(2, len(numbers))`.

    Args:
        numbers: Int array; image p owns `partners[p]` numbers in a row.
        partners: Int array `(n,)`, partners of each place.
        first_partner: Int array `(n,)`, the first of its adjoining partners.
    """
    ends = np.cumsum(partners)
    place = np.searchsorted(ends, numbers, side="right")
    offset = numbers - (ends - partners)[place]
    return np.stack([place, first_partner[place] + offset])


def is_measurable(point: RocPoint) -> bool:
    """Tells whether at least 10 negatives stand behind an operating point."""
    return point.negatives_allowed >= MIN_NEGATIVES


def not_measurable(fpr: float, num_negative: int) -> str:
    """Says in one sentence why there is no figure at an FPR."""
    if fpr == 0:
        return "TPR at FPR 0 is not measurable with any number of negative pairs"
    return (
        f"TPR at FPR {format_fpr(fpr)} is not measurable: it takes "
        f"{int(np.ceil(MIN_NEGATIVES / fpr))} negative pairs, and there are "
        f"{num_negative}"
    )


def check_two_kinds(labels: np.ndarray) -> None:
    """Raises `ValueError` unless there are positive and negative pairs."""
    positive, negative = count_pairs(labels)
    if positive and negative:
        return
    raise ValueError(
        "Verification needs two identities or more, one of them with two images. "
        f"Received: {len(labels)} images of {len(np.unique(labels))} identities"
    )
