"""Pairs drawn from a labelled set, to measure accuracy as LFW's is."""

from __future__ import annotations

import numpy as np

from ekd_tf.checks import check_range
from ekd_tf.evaluation.allpairs import check_labels
from ekd_tf.evaluation.allpairs import count_pairs


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
