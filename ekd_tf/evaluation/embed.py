"""Images to L2-normalised embeddings, by a model traced once."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from ekd_tf.checks import check_rank
from ekd_tf.metrics import normalize_rows


class Embedder:
    r"""Embeds batches of images, keeping the traced model between calls.

    With `flip` the raw embeddings of an image and of its mirror image are added
    before anything is normalised, as insightface and TFace do:

    $$ e(x) = \frac{f(x) + f(\bar x)}{\lVert f(x) + f(\bar x) \rVert} $$

    Args:
        model: A `keras.Model`, called with `training=False`, or any callable from
            uint8 images `(batch, height, width, 3)` to embeddings `(batch, dim)`.
            Its embeddings need not be normalised and are added in float32.
        flip: Whether to add the embedding of the mirror image.
        compiled: Whether to trace the model into a `tf.function`. False calls it
            eagerly: for a callable that leaves TensorFlow, such as an ONNX session.
    """

    def __init__(self, model: Callable, flip: bool = True, compiled: bool = True):
        self.model = model
        self.flip = flip
        self.compiled = compiled
        self._forward = self._raw
        if compiled:
            # Keras needs no conversion of Python, which costs a third of the tracing.
            autograph = not isinstance(model, keras.layers.Layer)
            self._forward = tf.function(self._raw, autograph=autograph)

    def __call__(self, batches: Iterable[np.ndarray]) -> np.ndarray:
        """Embeds all images of `batches`.

        A batch smaller than an earlier one, such as the last, is filled up with
        black images whose embeddings are dropped, so that only one shape is traced.

        Args:
            batches: Iterable of uint8 arrays or tensors
                `(batch, height, width, 3)`, RGB.

        Returns:
            Float32 array `(n, dim)`, rows of unit length in the order of the images.

        Raises:
            ValueError: `batches` holds no image or something else than uint8
                images, or an embedding is not finite or all zero; the message
                gives the numbers of the rows, counted from the first image.
        """
        rows, done = [], 0
        for views in self.views(batches):
            rows.append(add_views(views, first_row=done))
            done += len(views)
        if not done:
            raise ValueError("`batches` must hold at least one image. Received: none")
        return np.concatenate(rows)

    def views(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Embeds image by image and mirror image by mirror image, adding nothing.

        Args:
            batches: As for a call.

        Yields:
            Float32 `(batch, views, dim)` per batch: the raw embedding of the image and,
            with `flip`, that of its mirror image.
        """
        done = full = 0
        for batch in batches:
            batch = _check_images(np.asarray(batch), done)
            size = len(batch)
            if not size:
                continue
            full = max(full, size)
            if size < full:
                batch = np.pad(batch, [(0, full - size), (0, 0), (0, 0), (0, 0)])
            yield np.asarray(self._both(tf.constant(batch)))[:size]
            done += size

    def _both(self, images):
        views = [self._forward(images)]
        if self.flip:
            views.append(self._forward(tf.reverse(images, axis=[2])))
        return tf.stack(views, axis=1)

    def _raw(self, images):
        if isinstance(self.model, keras.layers.Layer):
            embeddings = self.model(images, training=False)
        else:
            embeddings = self.model(images)
        embeddings = tf.cast(embeddings, tf.float32)
        check_rank("embeddings", embeddings, 2)
        return embeddings


def embed(
    model: Callable, batches: Iterable[np.ndarray], flip: bool = True
) -> np.ndarray:
    """Embeds all images of `batches`; see `Embedder`, which it makes and calls.

    A caller that embeds with one model repeatedly saves the tracing by keeping an
    `Embedder`.

    Args:
        model: A `keras.Model` or callable from uint8 images to embeddings.
        batches: Iterable of uint8 arrays `(batch, height, width, 3)`, RGB.
        flip: Whether to add the embedding of the mirror image.

    Returns:
        Float32 array `(n, dim)`, rows of unit length.

    Raises:
        ValueError: As `Embedder.__call__`.
    """
    return Embedder(model, flip=flip)(batches)


def add_views(views: np.ndarray, first_row: int = 0) -> np.ndarray:
    """Adds the raw embeddings of an image and its mirror image, then normalises.

    Args:
        views: Float32 array `(n, views, dim)`.
        first_row: The number of `views[0]` in the caller's counting, for messages.

    Returns:
        Float32 array `(n, dim)`, rows of unit length.

    Raises:
        ValueError: A sum is not finite or all zero.
    """
    return normalize_rows(views.sum(axis=1), first_row=first_row)


def _check_images(batch: np.ndarray, done: int) -> np.ndarray:
    if batch.ndim != 4 or batch.shape[-1] != 3 or batch.dtype != np.uint8:
        raise ValueError(
            "`batches` must hold uint8 images (batch, height, width, 3). "
            f"Received: shape {batch.shape}, dtype {batch.dtype}, after {done} images"
        )
    return batch
