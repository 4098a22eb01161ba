"""A few images of a source, for whoever needs real ones and not all.

Those among them that cannot be read are left out, and counted in `unreadable`.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from ekd_tf.data.pipeline import evaluation_batches
from ekd_tf.data.readable import readable_indices
from ekd_tf.data.source import Source
from ekd_tf.data.unreadable import Unreadable


def sample_images(
    source: Source,
    input_size: int,
    count: int = 64,
    unreadable: Unreadable | None = None,
) -> np.ndarray:
    """Returns `count` inputs, uint8, spread over a source; all where it has fewer."""
    count = min(count, len(source))
    indices = np.linspace(0, len(source) - 1, count).astype(np.int64)
    return _read(source, indices, input_size, unreadable)[0]


def sample_faces(
    source: Source,
    input_size: int,
    count: int,
    images_per_identity: int = 8,
    unreadable: Unreadable | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns images of few identities, so that verification can be measured on them.

    Args:
        source: Labelled images.
        input_size: Side in pixels.
        count: How many images to return, >= 1; all where the source has fewer.
        images_per_identity: How many of each identity, >= 2; more only where the
            identities are too few to make up `count`.
        unreadable: Counts the unreadable ones.

    Returns:
        Uint8 `(n, input_size, input_size, 3)` and int32 labels `(n,)`, by identity;
        the identities are spread over the source.
    """
    order = np.argsort(source.labels, kind="stable")
    _, starts, sizes = np.unique(
        source.labels[order], return_index=True, return_counts=True
    )
    count, most = min(count, len(order)), images_per_identity
    while np.minimum(sizes, most).sum() < count:
        most *= 2
    taken = np.minimum(sizes, most)
    for wanted in range(max(1, count // most), len(starts) + 1):
        chosen = np.linspace(0, len(starts) - 1, min(wanted, len(starts))).astype(int)
        if taken[chosen].sum() >= count:
            break
    indices = np.concatenate([order[starts[i] :][: taken[i]] for i in chosen])[:count]
    images, indices = _read(source, indices, input_size, unreadable)
    return images, source.labels[indices]


def _read(source, indices, input_size, unreadable):
    indices, _ = readable_indices(source, indices, unreadable)
    batches = evaluation_batches(source, indices, input_size, 64)
    return np.concatenate(list(batches)), indices


def first_image_size(source: Source) -> tuple[int, int] | None:
    """Returns width and height of a source's first image; None if it is damaged."""
    try:
        first = source.read(np.zeros(1, np.int64))[0]
        if not source.encoded:
            return first.shape[1], first.shape[0]
        with Image.open(io.BytesIO(first)) as image:
            return image.size
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
