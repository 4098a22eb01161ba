"""Images to L2-normalised embeddings, by a model traced once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from ekd_tf.checks import check_rank
from ekd_tf.data import Source
from ekd_tf.data import evaluation_batches
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.files.outputs import make_folder
from ekd_tf.files.rows import RowFile
from ekd_tf.metrics import naming_images
from ekd_tf.metrics import normalize_rows

# What an embedding is made of. Nothing that is exported adds the mirror image.
ONE_IMAGE = "one image"
WITH_MIRROR_IMAGE = "image and mirror image"


class Embedder:
    r"""Embeds batches of images, keeping the traced model between calls.

    With `flip` the raw embeddings of an image and of its mirror image are added
    before anything is normalised, as insightface and TFace do:

    $$ e(x) = \frac{f(x) + f(\bar x)}{\lVert f(x) + f(\bar x) \rVert} $$

    Args:
        model: A `keras.Model`, called with `training=False`, or any callable from
            uint8 images `(batch, height, width, 3)` to embeddings `(batch, dim)`.
        flip: Whether to add the embedding of the mirror image.
        compiled: Whether to trace the model into a `tf.function`: not for a callable
            that leaves TensorFlow, such as an ONNX session.
    """

    def __init__(self, model: Callable, flip: bool = True, compiled: bool = True):
        self.model = model
        self.flip = flip
        self._is_keras = isinstance(model, keras.layers.Layer)
        self._forward = self._raw
        if compiled:
            # Keras needs no conversion of Python, which costs a third of the tracing.
            self._forward = tf.function(self._raw, autograph=not self._is_keras)

    def __call__(self, batches: Iterable[np.ndarray]) -> np.ndarray:
        """Returns float32 `(n, dim)`, rows of unit length, of all images of `batches`.

        Raises `ValueError` without images, and with the numbers of embeddings that are
        not finite or zero.
        """
        views = list(self.views(batches))
        if not views:
            raise ValueError("`batches` must hold images. Received: no batch")
        return add_views(np.concatenate(views))

    def views(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields raw embeddings of image and, if `flip`, mirror image, batch by batch.

        Float32 `(batch, views, dim)`.
        """
        # Small batches are filled up with black images: only one shape is traced.
        full = 0
        for batch in map(np.asarray, batches):
            if batch.ndim != 4 or batch.shape[-1] != 3 or batch.dtype != np.uint8:
                raise ValueError(
                    "`batches` must hold uint8 images (batch, height, width, 3). "
                    f"Received: shape {batch.shape}, dtype {batch.dtype}"
                )
            size = len(batch)
            full = max(full, size)
            if size < full:
                batch = np.pad(batch, [(0, full - size), (0, 0), (0, 0), (0, 0)])
            images = tf.constant(batch)
            views = [self._forward(images)]
            if self.flip:
                views.append(self._forward(tf.reverse(images, axis=[2])))
            yield np.stack(views, axis=1)[:size]

    def _raw(self, images):
        arguments = {"training": False} if self._is_keras else {}
        embeddings = tf.cast(self.model(images, **arguments), tf.float32)
        check_rank("embeddings", embeddings, 2)
        return embeddings


def add_views(views: np.ndarray) -> np.ndarray:
    """Returns the unit sums `(n, dim)` of raw embeddings `(n, views, dim)`."""
    return normalize_rows(views.sum(axis=1))


@dataclasses.dataclass(eq=False)
class SourceEmbedder:
    """Embeds all images of sources.

    Args:
        model, flip, traceable: As for `Embedder`, the last its `compiled`.
        input_size: Side of its images in pixels.
        batch_size: Images per forward pass.
        fingerprint: Changes when the model does. None for a model that is still
            trained: nothing of it is kept.
        cache: Folder to keep what a fingerprinted model gave in, a `RowFile` per
            source; the next run goes on where an interrupted one ended. None: memory.
        progress: Function of a name, a number and its unit, such as `("lfw", 13_233,
            "images")`, called where work begins. It returns a function of how many
            are done, called after each batch or block. None for silence.
        unreadable: Counts the unreadable images, each of which is replaced by the next
            readable one of its identity. Default: none is allowed.
    """

    model: Callable
    input_size: int
    flip: bool = True
    batch_size: int = 128
    traceable: bool = True
    fingerprint: str | None = None
    cache: str | os.PathLike | None = None
    progress: Callable | None = None
    unreadable: Unreadable | None = None

    def __post_init__(self) -> None:
        self._embedder = Embedder(self.model, self.flip, self.traceable)
        self._folder = make_folder("cache", self.cache) if self.cache else None
        self._kept: dict[str, np.ndarray] = {}

    @property
    def name(self) -> str:
        """What messages call the model."""
        return getattr(self.model, "name", "the model")

    @property
    def view(self) -> str:
        """What the embeddings of a call are made of, in words."""
        return WITH_MIRROR_IMAGE if self.flip else ONE_IMAGE

    def __call__(self, source: Source) -> np.ndarray:
        """Returns float32 `(n, dim)`, rows of unit length in the source's order."""
        return self.unit(self.views(source), source)

    def some(self, source: Source, indices: np.ndarray) -> np.ndarray:
        """Returns float32 `(k, dim)`, unit rows of the images at `indices`."""
        views = self._embedder.views(self._batches(source, indices))
        return self.unit(np.concatenate(list(views)), source, indices)

    def unit(
        self, views: np.ndarray, source: Source, indices: np.ndarray | None = None
    ) -> np.ndarray:
        """Returns the unit sums of raw embeddings of images, as `add_views`.

        Of all images of the source, or those at `indices`. A `ValueError` names the
        first whose embedding is not finite or zero.
        """
        with naming_images(self.name, source.describe, indices):
            return add_views(views)

    def views(self, source: Source) -> np.ndarray:
        """Returns raw embeddings, float32 `(n, views, dim)`, as `Embedder.views`."""
        if self.fingerprint is None:
            return np.concatenate(list(self._compute(source, 0)))
        if self._folder is None:
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
        if self.unreadable is not None and self.unreadable.allowed:
            # Some of its rows may be of other images.
            description["skip_corrupt"] = self.unreadable.allowed
        key = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
        path = self._folder / f"{key.hexdigest()[:32]}.f32"
        file = RowFile(path, path.with_suffix(".json"), description, len(source))
        return file.fill(lambda first: self._compute(source, first))

    def _batches(self, source, indices):
        return evaluation_batches(
            source, indices, self.input_size, self.batch_size, self.unreadable
        )

    def _compute(self, source, first):
        left = len(source) - first
        done = self.progress(source.name, left, "images") if self.progress else None
        batches = self._batches(source, np.arange(first, len(source)))
        for views in self._embedder.views(batches):
            yield views
            if done is not None:
                done(len(views))


@dataclasses.dataclass(frozen=True)
class Models:
    """The student, a teacher or None, and a baseline trained without it or None."""

    student: SourceEmbedder
    teacher: SourceEmbedder | None = None
    baseline: SourceEmbedder | None = None

    def items(self) -> list[tuple[str, SourceEmbedder]]:
        """Returns name and model of each there is, the teacher first."""
        names = ("teacher", "student", "baseline")
        return [(name, getattr(self, name)) for name in names if getattr(self, name)]
