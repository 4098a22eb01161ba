"""Many images of a face to one template, as the IJB protocols pool them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from ekd_tf.metrics.normalize import normalize_rows


@dataclasses.dataclass(frozen=True)
class Switches:
    """How the embedding of an image enters its template.

    Attributes:
        keep_norm: N1 keeps the embedding's norm, N0 normalises it first.
        detector_score: D1 multiplies it by the detector's score, D0 does not.
        flip: F1 adds the embedding of the mirror image first, F0 does not.
    """

    keep_norm: bool
    detector_score: bool
    flip: bool

    @property
    def name(self) -> str:
        return f"N{self.keep_norm:d}D{self.detector_score:d}F{self.flip:d}"

    @classmethod
    def parse(cls, name: str) -> Switches:
        """Reads the spelling of `name`."""
        text = name.upper()
        if [text[0::2], len(text)] != ["NDF", 6] or set(text[1::2]) - set("01"):
            raise ValueError(
                f"Switches must be spelled like N1D1F1, each 0 or 1. Received: {name!r}"
            )
        return cls(*(digit == "1" for digit in text[1::2]))


ALL_SWITCHES = tuple(
    Switches(*switches) for switches in itertools.product((False, True), repeat=3)
)


def pool_templates(
    views: np.ndarray,
    template: np.ndarray,
    media: np.ndarray,
    score: np.ndarray,
    switches: Sequence[Switches],
    chunk: int = 4096,
) -> dict[str, np.ndarray]:
    r"""Pools embeddings into templates, reading each embedding once.

    With f the embedding of an image after the switches, mean inside a media, sum over
    the media of a template, then the norm:

    $$ t \propto \sum_{media} \frac{1}{|media|} \sum_{image \in media} f_{image} $$

    Args:
        views: Float32 `(images, views, dim)`, raw embeddings of each image and, for F1,
            of its mirror image; may be mapped from a file.
        template: Int64 `(images,)`, number of the template.
        media: Int64 `(images,)`, number of the media: frames of one video share it.
        score: Float32 `(images,)`, of the face detector; finite.
        switches: The kinds of templates wanted.
        chunk: Embeddings in memory at a time.

    Returns:
        Name of the switches -> float32 `(templates, dim)`, rows of unit length in the
        order of the templates' numbers.

    Reference:
        insightface `arcface_torch/eval_ijbc.py` `image2template_feature`, there in
        float64 with all embeddings in memory. Sums here are float64 within a chunk and
        float32 between them.
    """
    order = np.lexsort([media, template])
    template, media = template[order], media[order]
    new_template = np.append(True, template[1:] != template[:-1])
    new_media = new_template | np.append(True, media[1:] != media[:-1])
    row = np.cumsum(new_template) - 1
    media_number = np.cumsum(new_media) - 1
    weight = 1 / np.bincount(media_number)[media_number]

    pooled = {}
    for start in range(0, order.size, chunk):
        part = slice(start, start + chunk)
        chosen = np.asarray(views[order[part]])
        first = row[start]
        # Where the rows of each template in the chunk begin.
        begins = np.flatnonzero(np.diff(row[part], prepend=first - 1))
        for kind in switches:
            rows = _weigh(chosen, score[order[part]], kind, order[part])
            sums = np.add.reduceat(rows * weight[part, None], begins, axis=0)
            if kind.name not in pooled:
                size = (int(row[-1]) + 1, sums.shape[1])
                pooled[kind.name] = np.zeros(size, np.float32)
            pooled[kind.name][first : first + len(sums)] += sums.astype(np.float32)
    return {name: normalize_rows(sums) for name, sums in pooled.items()}


def _weigh(views, score, kind, numbers):
    """Returns what each image adds to its media's mean, float64 `(k, dim)`."""
    if kind.flip and views.shape[1] < 2:
        raise ValueError(
            f"{kind.name} adds embeddings of mirror images. Received: embeddings of "
            "the images alone"
        )
    raw = views[:, : 1 + kind.flip].sum(axis=1, dtype=np.float64)
    norm = np.linalg.norm(raw, axis=1)
    bad = np.flatnonzero(~np.isfinite(norm) | (norm == 0))
    if bad.size:
        raise ValueError(
            f"Every embedding must be finite and non-zero. Received: {bad.size} that "
            f"are not, the first of image {numbers[bad[0]]}"
        )
    if not kind.keep_norm:
        raw /= norm[:, None]
    return raw * score[:, None] if kind.detector_score else raw
