"""Scores of every pair of a set of images, block by block."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np

from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range
from ekd_tf.metrics import StreamedRoc
from ekd_tf.metrics import normalize_rows
from ekd_tf.metrics import streamed_roc

# Rows normalised at a time.
_ROWS = 8192


@dataclasses.dataclass
class PairBlock:
    """Cosines of some images with some others.

    Attributes:
        rows: Int64 `(r,)`, numbers of the images that the rows of `cosine` belong to.
        columns: Int64 `(c,)`, those of its columns.
        cosine: Float32 `(r, c)`, valid until the next block is asked for.
        positive: Bool `(r, c)`, the pairs of one identity, each once; None where
            there is none.
        negative: The same of pairs of two identities; None where every entry is one.
    """

    rows: np.ndarray
    columns: np.ndarray
    cosine: np.ndarray
    positive: np.ndarray | None
    negative: np.ndarray | None

    def scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the cosines of positive and of negative pairs, float32, 1-D."""
        if self.positive is None:
            return self.cosine[:0, 0], self.cosine.reshape(-1)
        return self.cosine[self.positive], self.cosine[self.negative]


class PairBlocks:
    """All unordered pairs of images as blocks, the same numbers at each pass.

    Images are put in order of identity, so that most blocks hold negative pairs
    alone and need no mask. Every pass computes the same products of the same shapes
    into the same memory, and so the same bits.

    Args:
        embeddings: Float array `(n, dim)`. Normalised here, into a float32 copy.
        labels: Integer array `(n,)`, identities.
        block_size: Int >= 1, images on either side of a block.

    Raises:
        ValueError: Lengths differ, or an embedding is not finite or all zero.
    """

    def __init__(
        self, embeddings: np.ndarray, labels: np.ndarray, block_size: int = 1024
    ):
        labels = check_labels(labels, embeddings=embeddings)
        check_positive("block_size", block_size)
        self._order = np.argsort(labels, kind="stable")
        self._labels = labels[self._order]
        self._unit = _sorted_unit_rows(np.asarray(embeddings), self._order)
        self._size = min(block_size, max(len(labels), 1))
        self._buffer = np.empty(self._size * self._size, np.float32)

    def __len__(self) -> int:
        blocks = -(-len(self._labels) // self._size)
        return blocks * (blocks + 1) // 2

    def __iter__(self) -> Iterator[PairBlock]:
        count = len(self._labels)
        for top in range(0, count, self._size):
            rows = slice(top, min(top + self._size, count))
            for left in range(top, count, self._size):
                columns = slice(left, min(left + self._size, count))
                shape = (rows.stop - top, columns.stop - left)
                cosine = self._buffer[: shape[0] * shape[1]].reshape(shape)
                np.matmul(self._unit[rows], self._unit[columns].T, out=cosine)
                yield PairBlock(
                    self._order[rows],
                    self._order[columns],
                    cosine,
                    *self._masks(rows, columns),
                )

    def scores(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields `(positive_scores, negative_scores)` of each block."""
        return (block.scores() for block in self)

    def _masks(self, rows, columns):
        """Returns the masks of both kinds of pairs, None for all negative."""
        if self._labels[rows.stop - 1] < self._labels[columns.start]:
            return None, None
        same = self._labels[rows, None] == self._labels[None, columns]
        if rows == columns:
            later = np.triu(np.ones(same.shape, bool), k=1)
            return same & later, ~same & later
        return same, ~same


def _sorted_unit_rows(embeddings, order):
    """Normalises rows into the place `order` gives them, without a second copy."""
    place = np.empty_like(order)
    place[order] = np.arange(order.size)
    unit = np.empty(embeddings.shape, np.float32)
    for start in range(0, order.size, _ROWS):
        part = slice(start, start + _ROWS)
        unit[place[part]] = normalize_rows(embeddings[part], first_row=start)
    return unit


def all_pairs_roc(
    embeddings: np.ndarray, labels: np.ndarray, fprs: Sequence[float]
) -> StreamedRoc:
    """Measures the ROC of every unordered pair of images, exactly.

    Memory does not grow with the number of pairs: beside the embeddings and their
    normalised copy it is 20 MB.

    Args:
        embeddings: Float array `(n, dim)`. Normalised here.
        labels: Integer array `(n,)`, identities.
        fprs: Target FPRs in [0, 1], by the strict rule.
    """
    return streamed_roc(PairBlocks(embeddings, labels).scores, fprs)


def all_pair_scores(
    embeddings: np.ndarray, labels: np.ndarray, block_size: int = 1024
) -> tuple[np.ndarray, np.ndarray]:
    """Scores every unordered pair of images by cosine and keeps the scores.

    For small sets: 4 bytes for each of the `n * (n - 1) / 2` pairs (200 MB for
    10,000 images).

    Args:
        embeddings: Float array `(n, dim)`. Normalised here.
        labels: Integer array `(n,)`, identities.
        block_size: Int >= 1, images on either side of a block.

    Returns:
        `(positive_scores, negative_scores)`, float32, 1-D, in the order of the
        blocks. Either may be empty.
    """
    blocks = PairBlocks(embeddings, labels, block_size)
    # Copied: a block without a mask is a view of the buffer.
    kinds = list(zip(*((p.copy(), n.copy()) for p, n in blocks.scores())))
    empty = [np.empty(0, np.float32)]
    positive, negative = kinds or (empty, empty)
    return np.concatenate(positive), np.concatenate(negative)


def count_pairs(labels: np.ndarray) -> tuple[int, int]:
    """Counts the unordered pairs of one identity and of two.

    Args:
        labels: Integer array `(n,)`.

    Returns:
        `(num_positive, num_negative)`.
    """
    _, sizes = np.unique(np.asarray(labels), return_counts=True)
    positive = int((sizes * (sizes - 1) // 2).sum())
    images = int(sizes.sum())
    return positive, images * (images - 1) // 2 - positive


def check_labels(labels: np.ndarray, **embeddings: np.ndarray) -> np.ndarray:
    """Returns `labels` as an array of as many identities as there are rows.

    Args:
        labels: Integers, one per image.
        **embeddings: Arrays with one row per label, by the argument's name.

    Raises:
        ValueError: Not one integer per row.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            "`labels` must be integers in 1 dimension. "
            f"Received: labels.shape={labels.shape}, labels.dtype={labels.dtype}"
        )
    for name, rows in embeddings.items():
        if len(rows) != len(labels):
            raise ValueError(
                f"`{name}` must have one row per label. "
                f"Received: {len(rows)} rows, {len(labels)} labels"
            )
    return labels


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
    """Turns numbers of pairs into places `(2, len(numbers))`."""
    ends = np.cumsum(partners)
    place = np.searchsorted(ends, numbers, side="right")
    offset = numbers - (ends - partners)[place]
    return np.stack([place, first_partner[place] + offset])
