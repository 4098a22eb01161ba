"""Many images of a face to one template, as the IJB protocols pool them."""

from __future__ import annotations

import itertools

import numpy as np

from ekd_tf.checks import check_choice
from ekd_tf.metrics.normalize import UnusableRows
from ekd_tf.metrics.normalize import normalize_rows

# N1 keeps an embedding's norm, N0 normalises it first. D1 multiplies it by the
# detector's score. F1 adds the embedding of the mirror image before all else.
ALL_SWITCHES = tuple(
    "N{}D{}F{}".format(*digits) for digits in itertools.product("01", repeat=3)
)


def pool_templates(
    views: np.ndarray,
    template: np.ndarray,
    media: np.ndarray,
    score: np.ndarray,
    switches: str,
    chunk: int = 4096,
) -> np.ndarray:
    r"""Pools embeddings into templates, reading each embedding once.

    With f the embedding of an image after the switches, mean inside a media, sum over
    the media of a template, then the norm:

    $$ t \propto \sum_{media} \frac{1}{|media|} \sum_{image \in media} f_{image} $$

    Args:
        views: Float32 `(images, views, dim)`, raw embeddings of each image and, for F1,
            of its mirror image; may be mapped from a file.
        template, media: Int64 `(images,)`, numbers of the template and of the media:
            frames of one video share it.
        score: Float32 `(images,)`, of the face detector; finite.
        switches: One of `ALL_SWITCHES`.
        chunk: Embeddings in memory at a time.

    Returns:
        Float32 `(templates, dim)`, rows of unit length in the order of the templates'
        numbers.

    Reference:
        insightface `arcface_torch/eval_ijbc.py` `image2template_feature`, there in
        float64 with all embeddings in memory. Sums here are float64 within a chunk and
        float32 between them.
    """
    check_choice("switches", switches, ALL_SWITCHES)
    order = np.lexsort([media, template])
    template, media = template[order], media[order]
    new_template = np.append(True, template[1:] != template[:-1])
    new_media = new_template | np.append(True, media[1:] != media[:-1])
    row = np.cumsum(new_template) - 1
    media_number = np.cumsum(new_media) - 1
    weight = 1 / np.bincount(media_number)[media_number]

    pooled = np.zeros((int(row[-1]) + 1, views.shape[2]), np.float32)
    for start in range(0, order.size, chunk):
        part = slice(start, start + chunk)
        first = row[start]
        # Where the rows of each template in the chunk begin.
        begins = np.flatnonzero(np.diff(row[part], prepend=first - 1))
        numbers = order[part]
        rows = _weigh(views[numbers], score[numbers], switches, numbers)
        sums = np.add.reduceat(rows * weight[part, None], begins, axis=0)
        pooled[first : first + len(sums)] += sums.astype(np.float32)
    try:
        return normalize_rows(pooled)
    except UnusableRows as error:
        # These are no images.
        raise ValueError(f"Templates, counted from 0: {error}") from error


def _weigh(views, score, switches, numbers):
    """Returns what each image adds to its media's mean, float64 `(k, dim)`."""
    keep_norm, times_score, flip = (digit == "1" for digit in switches[1::2])
    if flip and views.shape[1] < 2:
        raise ValueError(
            f"{switches} adds embeddings of mirror images. Received: embeddings of "
            "the images alone"
        )
    raw = views[:, : 1 + flip].sum(axis=1, dtype=np.float64)
    norm = np.linalg.norm(raw, axis=1)
    bad = np.flatnonzero(~np.isfinite(norm) | (norm == 0))
    if bad.size:
        raise UnusableRows(
            f"Every embedding must be finite and non-zero. Received: {bad.size} that "
            f"are not, the first of image {numbers[bad[0]]}",
            numbers[bad],
            "are zero or not finite",
        )
    if not keep_norm:
        raw /= norm[:, None]
    return raw * score[:, None] if times_score else raw
