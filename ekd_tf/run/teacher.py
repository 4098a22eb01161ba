"""The teacher of a run, of any format or none but its embeddings, and their cache.

Whatever the format, the rows of a batch are those of the view the student sees: a
teacher of another input size gets the same bytes decoded at its own size, with the
same flip and the same draws of the augmentation. A cache has rows of image and mirror
image, and of the views that were drawn when it was written.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from absl import logging

from ekd_tf.data import Augmentation
from ekd_tf.data import DrawnViews
from ekd_tf.data import Source
from ekd_tf.data import evaluation_batches
from ekd_tf.data.augment import flip_images
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.embedders import CacheWriter
from ekd_tf.embedders import FrozenEmbedder
from ekd_tf.embedders import TeacherCache
from ekd_tf.embedders import open_embedder
from ekd_tf.evaluation import Embedder
from ekd_tf.evaluation import SourceEmbedder
from ekd_tf.evaluation.embed import add_views
from ekd_tf.metrics import naming_images
from ekd_tf.run.config import CACHE
from ekd_tf.run.evaluators import source_embedder
from ekd_tf.run.progress import begin_line


class OnlineTeacher:
    """A model that runs with the student, within the step where it can be traced.

    Others leave TensorFlow and run in the input pipeline, ahead of the steps, on the
    rows of a batch that this worker has.

    Attributes:
        in_step: Function of images to embeddings that the step's graph calls, or None:
            batches bring the rows.
        views: The only views of the images it has rows of, or None for any.
        centres: Float32 `(identities, dim)`, class centres of the training labels, or
            None where nobody has its rows of all images.
    """

    views = centres = None

    def __init__(self, spec: str):
        self._model = model = open_embedder(spec)
        self.fingerprint, self.input_size = model.fingerprint, model.input_size
        self.embedding_dim = model.embedding_dim
        self.in_step = model.traced()
        # Frozen: what an evaluation asks for is embedded once and remembered.
        self._embedder = source_embedder(model, progress=begin_line)

    def image_size(self, student_size: int) -> int | None:
        """Returns the size at which the pipeline gives images for it, or None."""
        return None if self.input_size == student_size else self.input_size

    def attach(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Adds the rows to batches, unless `in_step`."""
        if self.in_step is not None:
            return dataset

        def take(batch):
            return [batch.pop("teacher_image", batch["image"])]

        return _with_rows(dataset, take, self._model, self.embedding_dim)

    def embedder_of(self, source: Source | None) -> SourceEmbedder:
        """Returns what embeds a source, a `SourceEmbedder` or like it, or None."""
        return self._embedder


class CachedTeacher(TeacherCache):
    """A teacher that need not exist: its embeddings of `--data` were written before.

    The training images are those of the cache, or some identities of them. Where it
    holds drawn views, the run takes these views and no others. What `OnlineTeacher` has
    it has too.

    Args:
        folder: Of the cache.
        train: The training images.
        flip: Whether the run mirrors images.
        augmentation: What it does to them besides, at the side `input_size`.
    """

    in_step = None

    def __init__(
        self,
        folder: str,
        train: Source,
        flip: bool,
        augmentation: Augmentation,
        input_size: int,
    ):
        super().__init__(folder)
        self.check_source(train)
        self._train, self.views = train, self.drawn
        if flip and self.plain < 2:
            raise ValueError(
                f"`--teacher=cache:{folder}` has no rows of mirror images: train with "
                "--noflip, or write a cache with --flip to another folder"
            )
        if self.views is not None:
            _check_drawn(self, flip, augmentation, input_size)
        elif augmentation:
            logging.warning(
                "The rows of cache:%s are of the images and their mirror images: they "
                "do not follow --augment. ekd_tf.embed_teacher --views=8 --augment=%s "
                "writes a cache whose rows do.",
                folder,
                augmentation.resized(input_size, self.input_size),
            )

    @functools.cached_property
    def centres(self) -> np.ndarray:
        return self.class_centres(self._train)

    def image_size(self, student_size: int) -> None:
        return None

    def attach(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        _, positions, _ = self._train.origin()
        first, column = (0, "flipped") if self.views is None else (self.plain, "view")

        def take(batch):
            return [batch["image_id"], batch[column]]

        def rows_of(image_ids, views):
            return self.rows[positions[image_ids], views.astype(np.int64) + first]

        return _with_rows(dataset, take, rows_of, self.embedding_dim)

    def embedder_of(self, source: Source | None) -> CachedTeacher | None:
        return self if source is not None and self.has(source) else None

    def __call__(self, source: Source) -> np.ndarray:
        """Returns float32 `(n, dim)`, rows of unit length in the source's order."""
        return self.some(source, np.arange(len(source)))

    def some(self, source: Source, indices: np.ndarray) -> np.ndarray:
        """Returns float32 `(k, dim)`, unit rows of the images at `indices`."""
        _, positions, _ = source.origin()
        rows = self.rows[positions[indices]][:, : self.plain]
        with naming_images(self.name, source.describe, indices):
            return add_views(rows.astype(np.float32))


def _check_drawn(cache, flip, augmentation, input_size):
    """Raises `ValueError` unless a run and the views of a cache draw the same."""
    wanted = cache.augmentation.resized(cache.input_size, input_size)
    same = np.allclose(
        dataclasses.astuple(wanted), dataclasses.astuple(augmentation), rtol=1e-3
    )
    if not same or flip != cache.drawn.flip:
        raise ValueError(
            f"`--teacher=cache:{cache.folder}` has views drawn by other settings than "
            f"those of the run: give --augment={wanted} and "
            f"{'--flip' if cache.drawn.flip else '--noflip'}. Received: "
            f"--augment={augmentation}, {'--flip' if flip else '--noflip'}"
        )


def open_run_teacher(
    spec: str,
    train: Source,
    flip: bool,
    augmentation: Augmentation | None = None,
    input_size: int = 112,
) -> OnlineTeacher | CachedTeacher | None:
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


def _with_rows(dataset, take, rows_of, dim):
    """Adds `teacher` to batches: what a NumPy function gives for what is taken."""

    def float_rows(*arrays):
        return np.asarray(rows_of(*arrays), np.float32)

    def attach(batch):
        batch = dict(batch)
        rows = tf.numpy_function(float_rows, take(batch), tf.float32)
        rows = tf.ensure_shape(rows, [batch["image"].shape[0], dim])
        return {**batch, "teacher": rows}

    # One at a time: not every interpreter may be called from two threads at once.
    return dataset.map(attach).prefetch(2)


def write_cache(
    writer: CacheWriter,
    model: FrozenEmbedder,
    source: Source,
    flip: bool = True,
    drawn: DrawnViews | None = None,
    augmentation: Augmentation | None = None,
    batch_size: int = 128,
    unreadable: Unreadable | None = None,
    progress: Callable | None = None,
) -> np.ndarray:
    """Embeds the images of a writer that it does not have yet.

    Views are those that `describe_cache` was told of; `unreadable` and `progress` are
    as for `SourceEmbedder`. Returns the rows `(images, views, dim)` of the writer,
    mapped from its file.
    """
    embedder = Embedder(model, flip=False, compiled=model.traceable)
    views = 1 + flip + (drawn.count if drawn else 0)

    @tf.function(autograph=False)
    def make_view(images, numbers, views):
        flips, draws = drawn.draw(numbers, views)
        images = flip_images(images, flips)
        return augmentation(images, draws) if augmentation else images

    def pixels(first) -> Iterator[tf.Tensor]:
        """Yields every view of a batch, then of the next one."""
        left = np.arange(first, writer.images.stop)
        batches = evaluation_batches(
            source, left, model.input_size, batch_size, unreadable
        )
        for number, images in enumerate(batches):
            yield images
            if flip:
                yield images[:, :, ::-1]
            numbers = left[number * batch_size :][: len(images)]
            for view in range(drawn.count if drawn else 0):
                yield make_view(images, numbers, np.full(len(images), view))

    def compute(first):
        left = writer.images.stop - first
        done = progress(source.name, left, "images") if progress else None
        rows = embedder.views(pixels(first))
        while batch_rows := list(itertools.islice(rows, views)):
            yield np.concatenate(batch_rows, axis=1)
            if done is not None:
                done(len(batch_rows[0]))

    with naming_images(model.name, source.describe):
        return writer.write(compute)
