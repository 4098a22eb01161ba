"""Scores of every pair of a set of images, block by block."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np

from ekd_tf import metrics

# Negatives kept for an interval per one that the whole set lets through: in a resample
# a few identities that weigh twice may double the count at the top.
_TAIL = 3


@dataclasses.dataclass
class PairBlock:
    """Cosines `(r, c)` of images `rows` with images `columns`, int64 numbers of them.

    Cosines are float32 and valid until the next block is asked for. `positive` and
    `negative` mark the pairs of one identity and of two, each once; both are None where
    every entry is a negative pair.
    """

    rows: np.ndarray
    columns: np.ndarray
    cosine: np.ndarray
    positive: np.ndarray | None
    negative: np.ndarray | None

    def scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the cosines of positive and of negative pairs, 1-D."""
        if self.positive is None:
            return self.cosine[:0, 0], self.cosine.reshape(-1)
        return self.cosine[self.positive], self.cosine[self.negative]


class PairBlocks:
    """All unordered pairs of images as blocks, the same bits at each pass.

    Images are put in order of identity, so that most blocks hold negative pairs
    alone and need no mask.

    Args:
        embeddings: Float array `(n, dim)`. Normalised here, into a float32 copy.
        labels: Integer array `(n,)`, identities.
        block_size: Images on either side of a block.
        progress: As for `SourceEmbedder`, of each pass; the unit is pairs.
    """

    def __init__(
        self,
        embeddings: np.ndarray,
        labels: np.ndarray,
        block_size: int = 1024,
        progress: Callable | None = None,
    ):
        labels = check_labels_of_rows(labels, embeddings=embeddings)
        self._order = np.argsort(labels, kind="stable")
        self._labels = labels[self._order]
        unit = metrics.normalize_rows(embeddings).astype(np.float32, copy=False)
        self._unit = unit[self._order]
        self._size = min(block_size, max(len(labels), 1))
        self._buffer = np.empty(self._size * self._size, np.float32)
        self._progress = progress

    def __iter__(self) -> Iterator[PairBlock]:
        count, done = len(self._labels), None
        if self._progress:
            done = self._progress("all pairs", count * (count - 1) // 2, "pairs")
        for top in range(0, count, self._size):
            rows = slice(top, min(top + self._size, count))
            for left in range(top, count, self._size):
                columns = slice(left, min(left + self._size, count))
                height, width = rows.stop - top, columns.stop - left
                cosine = self._buffer[: height * width].reshape(height, width)
                np.matmul(self._unit[rows], self._unit[columns].T, out=cosine)
                images = self._order[rows], self._order[columns]
                yield PairBlock(*images, cosine, *self._masks(rows, columns))
                if done is not None:
                    # Of a block on the diagonal half of the entries are pairs.
                    done(height * (height - 1) // 2 if top == left else cosine.size)

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


def all_pairs_roc(
    embeddings: np.ndarray, labels: np.ndarray, fprs: Sequence[float]
) -> metrics.ROC:
    """Measures the ROC of every pair of `PairBlocks`, exactly at `fprs`.

    Beside the embeddings and their normalised copies it takes 20 MB.
    """
    return metrics.streamed_roc(PairBlocks(embeddings, labels).scores, fprs)


def all_pair_scores(
    embeddings: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the cosines of all positive and all negative pairs, float32, 1-D.

    For small sets: 200 MB for 10,000 images.
    """
    # Copied: a block without a mask is a view of the buffer.
    blocks = PairBlocks(embeddings, labels).scores()
    return _joined([tuple(map(np.copy, kinds)) for kinds in blocks])


def labelled_intervals(
    blocks: PairBlocks,
    labels: np.ndarray,
    points: Sequence[metrics.OperatingPoint],
    replicates: int = 200,
    seed: int = 0,
    max_pairs: int = 1_000_000,
) -> dict[str, tuple[float, float]]:
    """Gives bootstrap 95 % intervals of TPR and threshold, over identities.

    One more pass over all pairs, made with `labels`, keeps the positives and the
    highest negatives: at most `max_pairs` of a kind, 16 bytes each. Those of `points`,
    of the whole set, that would take more have no intervals. `replicates` and `seed`
    are as for `identity_intervals`. Returns `tpr_at_fpr_1e-3` and
    `threshold_at_fpr_1e-3`, so spelled, -> interval.
    """
    _, number, images = np.unique(labels, return_inverse=True, return_counts=True)
    chosen = [p for p in points if p.negatives_allowed * _TAIL <= max_pairs]
    if not chosen or count_pairs(labels)[0] > max_pairs:
        return {}
    keep = _TAIL * max(point.negatives_allowed for point in chosen)
    positive, negative = _highest_pairs(blocks, number.reshape(-1), keep)
    fprs = [point.target_fpr for point in chosen]
    names = map(metrics.format_fpr, fprs)
    tpr, threshold = metrics.identity_intervals(
        images, positive, negative, fprs, replicates, seed
    )
    intervals = {}
    for name, *both in zip(names, tpr.tolist(), threshold.tolist()):
        if not np.isnan(both).any():
            intervals[f"tpr_at_fpr_{name}"] = tuple(both[0])
            intervals[f"threshold_at_fpr_{name}"] = tuple(both[1])
    return intervals


def _highest_pairs(blocks, number, keep):
    """Returns all positives, and the `keep` highest negatives, with identities."""
    positives, negatives = [], []
    floor, held = -np.inf, 0
    for block in blocks:
        rows, columns = number[block.rows], number[block.columns]
        if block.positive is not None:
            r, c = np.nonzero(block.positive)
            positives.append((block.cosine[r, c], rows[r]))
        high = block.cosine > floor
        if block.negative is not None:
            high &= block.negative
        r, c = np.nonzero(high)
        negatives.append((block.cosine[r, c], rows[r], columns[c]))
        held += r.size
        if held > 2 * keep:
            negatives = [_highest(negatives, keep)]
            held, floor = keep, negatives[0][0].min()
    return _joined(positives), _highest(negatives, keep)


def _highest(parts, keep):
    columns = _joined(parts)
    if columns[0].size <= keep:
        return columns
    chosen = np.argpartition(-columns[0], keep - 1)[:keep]
    return tuple(column[chosen] for column in columns)


def _joined(parts):
    return tuple(map(np.concatenate, zip(*parts)))


def count_pairs(labels: np.ndarray) -> tuple[int, int]:
    """Returns how many unordered pairs are of one identity, and of two."""
    _, sizes = np.unique(np.asarray(labels), return_counts=True)
    positive = int((sizes * (sizes - 1) // 2).sum())
    images = int(sizes.sum())
    return positive, images * (images - 1) // 2 - positive


def check_labels_of_rows(labels: np.ndarray, **embeddings: np.ndarray) -> np.ndarray:
    """Returns `labels` as an array; `ValueError` unless one integer per row of each."""
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
    labels: np.ndarray, each: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws `each` pairs of images of either kind, each unordered pair at most once.

    Positives are spread over identities: none gives its second pair before every
    identity that can has given its first, and so on. Negatives are uniform over all
    pairs of different identities. The two kinds alternate, so that contiguous folds
    are balanced.

    Returns:
        `(left, right, same)`: int64 row numbers `(2 * each,)` twice, and bool.
    """
    rng = np.random.default_rng(seed)

    # Sorted by identity, identity k fills places starts[k] .. starts[k + 1] - 1:
    # an image's positive partners are the places after it inside that range, its
    # negative partners all places after the range, and every unordered pair has
    # one number.
    order = np.argsort(labels, kind="stable")
    _, sizes = np.unique(labels, return_counts=True)
    ends = np.repeat(np.cumsum(sizes), sizes)
    places = np.arange(labels.size)
    chosen = rng.permutation(_spread(sizes, each, rng))
    positive = _decode(chosen, ends - 1 - places, places + 1)
    chosen = rng.choice(count_pairs(labels)[1], each, replace=False)
    negative = _decode(chosen, labels.size - ends, ends)
    left, right = order[np.stack([positive, negative], axis=2)].reshape(2, -1)
    return left, right, np.tile([True, False], each)


def _spread(sizes, wanted, rng):
    """Picks numbers of positive pairs, as equally many per identity as there are."""
    counts = sizes * (sizes - 1) // 2
    # above[k] identities have more than k: so many give their (k + 1)-th pair.
    above = counts.size - np.cumsum(np.bincount(np.minimum(counts, wanted)))[:wanted]
    level = int(np.searchsorted(np.cumsum(above), wanted, side="right"))
    quota = np.minimum(counts, level)
    richer = rng.permutation(np.flatnonzero(counts > level))
    quota[richer[: wanted - quota.sum()]] += 1
    first = np.cumsum(counts) - counts
    return np.concatenate(
        [
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
