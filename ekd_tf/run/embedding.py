"""Every image of a source through a teacher, into the cache that a run reads."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from ekd_tf.data import Augmentation
from ekd_tf.data import DrawnViews
from ekd_tf.data import Source
from ekd_tf.data import evaluation_batches
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.embedders import CacheWriter
from ekd_tf.embedders import FrozenEmbedder
from ekd_tf.evaluation import Embedder


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
    augmentations = {"image": augmentation} if augmentation else {}

    @tf.function(autograph=False)
    def make_view(images, numbers, views):
        made, _ = drawn.make({"image": images}, augmentations, numbers, views)
        return made["image"]

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
        while of_batch := list(itertools.islice(rows, views)):
            yield np.concatenate(of_batch, axis=1)
            if done is not None:
                done(len(of_batch[0]))

    return writer.write(compute)
