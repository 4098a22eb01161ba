"""Scores of every pair of a set of images, in blocks."""

from __future__ import annotations

import numpy as np

from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range
from ekd_tf.metrics import normalize_rows


def all_pair_scores(
    embeddings: np.ndarray, labels: np.ndarray, block_size: int = 1024
) -> tuple[np.ndarray, np.ndarray]:
    """Scores every unordered pair of images by cosine.

    The scores are kept: 4 bytes for each of the `n * (n - 1) / 2` pairs (200 MB
    for 10,000 images). Beside them only `block_size` rows of the similarity matrix
    exist at a time.

    Args:
        embeddings: Float array `(n, dim)`. Normalised here.
        labels: Integer array `(n,)`, identities.
        block_size: Int >= 1, rows per block. Does not change the order.

    Returns:
        `(positive_scores, negative_scores)`, float32, 1-D: the pairs `i < j` of
        the same identity and of different ones, each ordered by `i`, then `j`.
        Either may be empty.

    Raises:
        ValueError: Lengths differ, or an embedding is not finite or all zero.
    """
    labels = check_labels(labels, embeddings=embeddings)
    check_positive("block_size", block_size)
    embeddings = normalize_rows(np.asarray(embeddings)).astype(np.float32)
    num_positive, num_negative = count_pairs(labels)
    positive = np.empty(num_positive, np.float32)
    negative = np.empty(num_negative, np.float32)
    positives_done = negatives_done = 0
    for start in range(0, len(labels), block_size):
        stop = min(start + block_size, len(labels))
        similarity = embeddings[start:stop] @ embeddings[start:].T
        same = labels[start:stop, None] == labels[None, start:]
        later = np.triu(np.ones(same.shape, bool), k=1)
        found = similarity[same & later]
        positive[positives_done : positives_done + found.size] = found
        positives_done += found.size
        found = similarity[~same & later]
        negative[negatives_done : negatives_done + found.size] = found
        negatives_done += found.size
    return positive, negative


def pairs_at(labels: np.ndarray, same: bool, positions: np.ndarray) -> np.ndarray:
    """Finds which two images scores of `all_pair_scores` belong to.

    Args:
        labels: Integer array `(n,)`, as given to `all_pair_scores`.
        same: True for positions among the positives, False among the negatives.
        positions: Integer array `(k,)`, indices into that array of scores.

    Returns:
        Int64 array `(k, 2)`: row numbers `(i, j)`, `i < j`.

    Raises:
        ValueError: A position is negative or there are not that many pairs.
    """
    labels = check_labels(labels)
    order = np.argsort(labels, kind="stable")
    _, sizes = np.unique(labels, return_counts=True)
    partners = np.empty(labels.size, np.int64)
    partners[order] = np.repeat(np.cumsum(sizes), sizes) - 1 - np.arange(labels.size)
    if not same:
        partners = np.arange(labels.size)[::-1] - partners
    ends = np.cumsum(partners)
    pairs = []
    for position in np.asarray(positions).tolist():
        check_range("positions", position, low=0, high=int(partners.sum()) - 1)
        i = int(np.searchsorted(ends, position, side="right"))
        later = i + 1 + np.flatnonzero((labels[i + 1 :] == labels[i]) == same)
        pairs.append((i, later[position - ends[i] + partners[i]]))
    return np.array(pairs, np.int64).reshape(-1, 2)


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
