"""One model that embeds whole sources, and the models an evaluation compares."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Iterator

import numpy as np

from ekd_tf.data import Source
from ekd_tf.data import evaluation_batches
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.evaluation.cache import EmbeddingCache
from ekd_tf.evaluation.embed import Embedder
from ekd_tf.evaluation.embed import add_views

# What an embedding is made of. Nothing that is exported adds the mirror image.
ONE_IMAGE = "one image"
WITH_MIRROR_IMAGE = "image and mirror image"


class SourceEmbedder:
    """Embeds all images of sources.

    Args:
        model: A `keras.Model` or callable, uint8 images `(n, size, size, 3)` to
            embeddings `(n, dim)`.
        input_size: Int, side of its images in pixels.
        flip: Whether to add the embedding of the mirror image.
        batch_size: Int, images per forward pass.
        traceable: Whether `model` is made of TensorFlow operations; see `Embedder`.
        fingerprint: String, changes when the model does. None for a model that is
            still trained: nothing of it is kept.
        cache: `EmbeddingCache`, or None to keep what a fingerprinted model gave in
            memory.
        progress: Function of `(source name, images)` that returns a function of the
            images done in a batch, called after each; None for silence.
        unreadable: Counts the unreadable images, each of which is replaced by the next
            readable one of its identity. Default: none is allowed.
    """

    def __init__(
        self,
        model: Callable,
        input_size: int,
        flip: bool = True,
        batch_size: int = 128,
        traceable: bool = True,
        fingerprint: str | None = None,
        cache: EmbeddingCache | None = None,
        progress: Callable | None = None,
        unreadable: Unreadable | None = None,
    ):
        self.input_size = input_size
        self.flip = flip
        self._batch_size = batch_size
        self._embedder = Embedder(model, flip=flip, compiled=traceable)
        self.fingerprint = fingerprint
        self._cache = cache
        self._progress = progress
        self._unreadable = unreadable or Unreadable()
        self._kept = {}

    @property
    def view(self) -> str:
        """What the embeddings of a call are made of, in words."""
        return WITH_MIRROR_IMAGE if self.flip else ONE_IMAGE

    def __call__(self, source: Source) -> np.ndarray:
        """Returns float32 `(n, dim)`, rows of unit length in the source's order."""
        return add_views(self.views(source))

    def some(self, source: Source, indices) -> np.ndarray:
        """Returns float32 `(k, dim)`, unit rows of the images at `indices`."""
        return self._embedder(
            evaluation_batches(
                source, indices, self.input_size, self._batch_size, self._unreadable
            )
        )

    def views(self, source: Source) -> np.ndarray:
        """Returns the raw embeddings, of image and mirror image apart.

        Returns:
            Float32 `(n, views, dim)`, two views with `flip` and else one.
        """
        if self.fingerprint is None:
            return np.concatenate(list(self._compute(source, 0)))
        if self._cache is None:
            if source.fingerprint not in self._kept:
                views = np.concatenate(list(self._compute(source, 0)))
                self._kept[source.fingerprint] = views
            return self._kept[source.fingerprint]
        description = {
            "model": self.fingerprint,
            "source": source.fingerprint,
            "name": source.name,
            "images": len(source),
            "input_size": self.input_size,
            "flip": self.flip,
        }
        return self._cache.rows(
            description, len(source), lambda first: self._compute(source, first)
        )

    def _compute(self, source, first) -> Iterator[np.ndarray]:
        batches = evaluation_batches(
            source,
            np.arange(first, len(source)),
            self.input_size,
            self._batch_size,
            self._unreadable,
        )
        left = len(source) - first
        done = self._progress(source.name, left) if self._progress else None
        for views in self._embedder.views(batches):
            yield views
            if done is not None:
                done(len(views))


@dataclasses.dataclass(frozen=True)
class Models:
    """What an evaluation compares.

    Attributes:
        student: The model that is judged.
        teacher: The one it learns from, or None: adds the gap.
        baseline: A student trained without the teacher, or None: adds the share of
            the gap that is closed.
    """

    student: SourceEmbedder
    teacher: SourceEmbedder | None = None
    baseline: SourceEmbedder | None = None

    def items(self) -> list[tuple[str, SourceEmbedder]]:
        """Returns name and model of each there is, the teacher first."""
        found = [
            ("teacher", self.teacher),
            ("student", self.student),
            ("baseline", self.baseline),
        ]
        return [(name, model) for name, model in found if model is not None]
