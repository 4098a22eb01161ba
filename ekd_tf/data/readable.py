"""The images that can be read: all, a few, and those of pairs and of templates.

Training replaces an unreadable image by another of its identity, since a batch has a
size. What is measured takes no image twice: it leaves such images out and says so.
Where more are unreadable than `unreadable` allows (by default none), `UnreadableError`
is raised, where none can be read, `ValueError`.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os

import numpy as np

from ekd_tf.data.decoding import ImageReader
from ekd_tf.data.image_pixels import open_image
from ekd_tf.data.pairs import PairSet
from ekd_tf.data.pipeline import evaluation_batches
from ekd_tf.data.source import Images
from ekd_tf.data.source import Source
from ekd_tf.data.templates import TemplateSet
from ekd_tf.data.unreadable import Unreadable

_CHUNK = 256


def readable_indices(
    source: Source, indices: np.ndarray, unreadable: Unreadable | None = None
) -> tuple[np.ndarray, list[str]]:
    """Returns what of `indices` can be decoded, and `"path: reason"` of the others."""
    indices = np.asarray(indices, np.int64)
    unreadable = unreadable or Unreadable()
    # To ask for pixels takes as long as to use them.
    if not len(indices) or not (source.encoded or unreadable.allowed):
        return indices, []
    reader = ImageReader(source, {}, unreadable)
    keep, left_out = np.ones(len(indices), bool), []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        # Given all at once the pool would read on behind the error that ends it.
        for first in range(0, len(indices), _CHUNK):
            chunk = indices[first : first + _CHUNK].tolist()
            reasons = pool.map(reader.why_unreadable, chunk)
            for row, (index, reason) in enumerate(zip(chunk, reasons), first):
                if reason is not None:
                    keep[row] = False
                    left_out.append(unreadable.count(source.describe(index), reason))
    if not keep.any():
        raise ValueError(f"{source.name}: none of its images can be read")
    return indices[keep], left_out


def readable_images(source: Source, unreadable: Unreadable | None = None) -> Source:
    """Returns a source without its unreadable images, which `left_out` then names."""
    indices, left_out = readable_indices(source, np.arange(len(source)), unreadable)
    return Images(source, indices, left_out) if left_out else source


def readable_pairs(pairs: PairSet, unreadable: Unreadable | None = None) -> PairSet:
    """Returns a set without the pairs of which an image cannot be read."""
    everything = np.arange(len(pairs.images))
    indices, left_out = readable_indices(pairs.images, everything, unreadable)
    if not left_out:
        return pairs
    keep = np.isin(everything, indices).reshape(-1, 2).all(axis=1)
    if not keep.any():
        raise ValueError(f"{pairs.name}: no pair has two images that can be read")
    images = Images(pairs.images, np.flatnonzero(np.repeat(keep, 2)), left_out)
    return dataclasses.replace(pairs, images=images, issame=pairs.issame[keep])


def readable_templates(
    templates: TemplateSet, unreadable: Unreadable | None = None
) -> TemplateSet:
    """Returns a set without its unreadable images.

    A template that has no other image leaves all lists.
    """
    images = templates.images
    indices, left_out = readable_indices(images, np.arange(len(images)), unreadable)
    if not left_out:
        return templates
    lost = np.setdiff1d(templates.template, templates.template[indices])

    def select(rows, *names):
        if rows is None:
            return None
        columns = vars(rows)
        keep = ~np.any([np.isin(columns[name], lost) for name in names], axis=0)
        return type(rows)(*(column[keep] for column in columns.values()))

    galleries = templates.galleries.items()
    return dataclasses.replace(
        templates,
        images=Images(images, indices, left_out),
        template=templates.template[indices],
        media=templates.media[indices],
        score=templates.score[indices],
        pairs=select(templates.pairs, "first", "second"),
        galleries={name: select(rows, "template") for name, rows in galleries},
        probes=select(templates.probes, "template"),
    )


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
    unreadable: Unreadable | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns `count` images of few identities, to measure verification on, and labels.

    The identities are spread over the source, with eight images of each, or more where
    they are too few.
    """
    order = np.argsort(source.labels, kind="stable")
    _, starts, sizes = np.unique(
        source.labels[order], return_index=True, return_counts=True
    )
    count, most = min(count, len(order)), 8
    while np.minimum(sizes, most).sum() < count:
        most *= 2
    taken = np.minimum(sizes, most)
    for wanted in range(max(1, count // most), len(starts) + 1):
        chosen = np.linspace(0, len(starts) - 1, wanted).astype(int)
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
        with open_image(first) as image:
            return image.size
    # Damaged files raise nearly anything out of Pillow's parsers.
    except Exception:
        return None
