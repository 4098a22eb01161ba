"""The teacher of a run, of any format or none but its embeddings on disk.

Whatever the format, the rows of a batch are those of the view the student sees: a
teacher of another input size gets the same bytes decoded at its own size, with the
same flip and the same draws of the augmentation. A cache has rows of image and mirror
image, and of the views that were drawn when it was written.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from ekd_tf.data import Augmentation
from ekd_tf.data import DrawnViews
from ekd_tf.data import Source
from ekd_tf.embedders import FrozenEmbedder
from ekd_tf.embedders import TeacherCache
from ekd_tf.embedders import open_embedder
from ekd_tf.evaluation.embed import add_views
from ekd_tf.run.config import CACHE
from ekd_tf.run.evaluators import source_embedder
from ekd_tf.run.progress import begin_line


class RunTeacher:
    """Where a run gets its teacher's embeddings from.

    Attributes:
        in_step: Function of images to embeddings that the step's graph calls, or None:
            batches bring the rows.
        views: The only views of the images it has rows of, or None for any.
    """

    in_step: FrozenEmbedder | None = None
    views: DrawnViews | None = None

    def __init__(self, model: Any):
        self.fingerprint: str = model.fingerprint
        self.input_size: int = model.input_size
        self.embedding_dim: int = model.embedding_dim

    @property
    def centres(self) -> np.ndarray | None:
        """Float32 `(identities, dim)`, its class centres of the training labels.

        None where nobody has its rows of all images.
        """
        return None

    def image_size(self, student_size: int) -> int | None:
        """Returns the size at which the pipeline gives images for it, or None."""
        return None

    def attach(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Adds the rows to batches, or to parts of them, unless `in_step`."""
        return dataset

    def embedder_of(self, source: Source | None) -> Any:
        """Returns what embeds a source, a `SourceEmbedder` or like it, or None."""


class OnlineTeacher(RunTeacher):
    """A model that runs with the student, within the step where it can be traced.

    Others leave TensorFlow and run in the input pipeline, one global batch at a time,
    ahead of the steps.
    """

    def __init__(self, spec: str):
        model = open_embedder(spec)
        super().__init__(model)
        self.in_step = model.traced()
        self._model = model
        # Frozen: what an evaluation asks for is embedded once and remembered.
        self._embedder = source_embedder(model, progress=begin_line)

    def image_size(self, student_size: int) -> int | None:
        return None if self.input_size == student_size else self.input_size

    def attach(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        if self.in_step is not None:
            return dataset

        def embed(batch):
            batch = dict(batch)
            images = batch.pop("teacher_image", batch["image"])
            return _with_rows(batch, self._model, [images], self.embedding_dim)

        return _mapped(dataset, embed)

    def embedder_of(self, source: Source | None) -> Any:
        return self._embedder


class CachedTeacher(RunTeacher):
    """A teacher that need not exist: its embeddings of `--data` were written before.

    The training images are those of the cache, or some identities of them. Where it
    holds drawn views, the run takes these views and no others.

    Args:
        folder: Of the cache.
        train: The training images.
        flip: Whether the run mirrors images.
        augmentation: What it does to them besides, at the side `input_size`.
    """

    def __init__(
        self,
        folder: str,
        train: Source,
        flip: bool,
        augmentation: Augmentation,
        input_size: int,
    ):
        cache = TeacherCache(folder)
        super().__init__(cache)
        cache.check_source(train)
        self.views = cache.drawn
        if flip and cache.plain < 2:
            raise ValueError(
                f"`--teacher=cache:{folder}` has no rows of mirror images: train with "
                "--noflip, or write a cache with --flip to another folder"
            )
        if self.views is not None:
            _check_drawn(folder, cache, flip, augmentation, input_size)
        elif augmentation:
            logging.warning(
                "The rows of cache:%s are of the images and their mirror images: they "
                "do not follow --augment. ekd_tf.embed_teacher --views=8 --augment=%s "
                "writes a cache whose rows do.",
                folder,
                augmentation.resized(input_size, cache.input_size),
            )
        self._positions = train.origin()[1]
        self._cache, self._train = cache, train

    @functools.cached_property
    def centres(self) -> np.ndarray:
        return self._cache.class_centres(self._train)

    def attach(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        plain, drawn = self._cache.plain, self.views is not None

        def rows(image_ids, chosen):
            views = chosen.astype(np.int64) + (plain if drawn else 0)
            return self._cache.rows[self._positions[image_ids], views]

        def attach(batch):
            inputs = [batch["image_id"], batch["view" if drawn else "flipped"]]
            return _with_rows(batch, rows, inputs, self.embedding_dim)

        return _mapped(dataset, attach)

    def embedder_of(self, source: Source | None) -> Any:
        known = source is not None and self._cache.has(source)
        return CachedEmbedder(self._cache) if known else None


def _check_drawn(folder, cache, flip, augmentation, input_size):
    """Raises `ValueError` unless a run and the views of a cache draw the same."""
    wanted = cache.augmentation.resized(cache.input_size, input_size)
    same = np.allclose(
        dataclasses.astuple(wanted), dataclasses.astuple(augmentation), rtol=1e-3
    )
    if not same or flip != cache.drawn.flip:
        raise ValueError(
            f"`--teacher=cache:{folder}` has views drawn by other settings than those "
            f"of the run: give --augment={wanted} and "
            f"{'--flip' if cache.drawn.flip else '--noflip'}. Received: "
            f"--augment={augmentation}, {'--flip' if flip else '--noflip'}"
        )


class CachedEmbedder:
    """Gives the rows of a cache where a `SourceEmbedder` would compute them."""

    def __init__(self, cache: TeacherCache):
        self._cache = cache

    def __call__(self, source: Source) -> np.ndarray:
        """Returns float32 `(n, dim)`, rows of unit length in the source's order."""
        return self.some(source, np.arange(len(source)))

    def some(self, source: Source, indices: np.ndarray) -> np.ndarray:
        """Returns float32 `(k, dim)`, unit rows of the images at `indices`."""
        _, positions, _ = source.origin()
        rows = self._cache.rows[positions[indices]][:, : self._cache.plain]
        return add_views(rows.astype(np.float32))


def open_run_teacher(
    spec: str,
    train: Source,
    flip: bool,
    augmentation: Augmentation | None = None,
    input_size: int = 112,
) -> RunTeacher | None:
    """Opens the teacher of a run: `cache:DIR`, "none", or as `open_embedder` does.

    The others are of the run: its images, and what is done to them.
    """
    if spec == "none":
        return None
    if spec.startswith(CACHE):
        folder = spec.removeprefix(CACHE)
        augmentation = augmentation or Augmentation()
        return CachedTeacher(folder, train, flip, augmentation, input_size)
    return OnlineTeacher(spec)


def _with_rows(batch, function, inputs, dim):
    """Adds `teacher`, what a NumPy function gives for some tensors of the batch."""

    def float_rows(*arrays):
        return np.asarray(function(*arrays), np.float32)

    rows = tf.numpy_function(float_rows, inputs, tf.float32)
    rows = tf.ensure_shape(rows, [batch["image"].shape[0], dim])
    return {**batch, "teacher": rows}


def _mapped(dataset, function):
    # One at a time: not every interpreter may be called from two threads at once.
    return dataset.map(function).prefetch(2)
