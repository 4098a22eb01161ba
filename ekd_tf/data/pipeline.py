"""Source, sampler and augmentation -> tf.data.Dataset of global batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from ekd_tf import checks
from ekd_tf.data.augment import NUM_DRAWS
from ekd_tf.data.augment import Augmentation
from ekd_tf.data.decoding import CONCURRENT_BATCHES
from ekd_tf.data.decoding import ImageReader
from ekd_tf.data.sampling import BatchSampler
from ekd_tf.data.sampling import augment_draws
from ekd_tf.data.sampling import flip_mask
from ekd_tf.data.source import Source
from ekd_tf.data.unreadable import Unreadable


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """A dataset and what was met while it ran.

    Attributes:
        dataset: tf.data.Dataset of global batches; see `make_pipeline`.
        failure: Function of a step: after `tf.errors.OpError` ended the dataset where
            that batch was due, the error about its images, or None.
        augmented: Whether images are changed otherwise than by the flip, so that
            embeddings computed before belong to other pixels.
        start_step: Int, the step of the dataset's first batch.
        steps_per_epoch: Int, batches of a visit of every image; None where the
            dataset ends by itself.
    """

    dataset: tf.data.Dataset
    failure: Callable[[int], ValueError | None]
    augmented: bool
    start_step: int
    steps_per_epoch: int | None


def _options():
    options = tf.data.Options()
    options.deterministic = True
    # Batches are global: a strategy cuts each one, it must not deal out files.
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.OFF
    )
    return options


# Nothing that is mapped here branches on tensors in Python: converting it only takes
# time.
@tf.autograph.experimental.do_not_convert
def make_pipeline(
    source: Source,
    sampler: BatchSampler,
    input_size: int,
    seed: int = 0,
    start_step: int = 0,
    steps: int | None = None,
    flip: bool = True,
    unreadable: Unreadable | None = None,
    prefetch: int = 2,
    augmentation: Augmentation | None = None,
    teacher_size: int | None = None,
) -> Pipeline:
    """Builds the dataset whose batch i is `sampler.batch(start_step + i)`.

    Batches depend on (seed, step) alone: a pipeline started at step i continues the
    uninterrupted one bit for bit.

    Args:
        source: Where images come from.
        sampler: A `BatchSampler` over `source.labels`.
        input_size: Side of the images in pixels. Others are resized with antialias,
            said once through the log.
        seed: Integer >= 0, of the flips and the augmentation.
        start_step: The first step, >= 0.
        steps: Number of batches, or None for no end.
        flip: Whether to mirror half of the images.
        unreadable: Counts the unreadable images, each of which is replaced by the next
            readable one of its identity: `Unreadable(N)` allows N. Default: none is.
        prefetch: Batches made ready ahead of the one in use, >= 0.
        augmentation: What else is done to images; None for nothing.
        teacher_size: Side in pixels at which every image is given a second time, for
            a teacher of another input size: decoded from the same bytes, with the
            same flip and the same draws of the augmentation, whose crop is scaled.

    Returns:
        A `Pipeline`. Its elements are dicts of `image` uint8
        `(batch, input_size, input_size, 3)` RGB, `label` int32 `(batch,)`,
        `in_margin` float32 `(batch,)` (1 general, 0 balanced), `image_id` int32
        `(batch,)` (position in `source`), `flipped` bool `(batch,)` and, with
        `teacher_size`, `teacher_image` uint8 like `image`.

    Raises:
        ValueError: An argument is out of range, or the sampler was made for another
            number of images. While iterating, `tf.errors.OpError`, when more images
            are unreadable than are allowed: `Pipeline.failure` says which.
    """
    checks.check_positive("input_size", input_size)
    for name, value in {
        "seed": seed,
        "start_step": start_step,
        "prefetch": prefetch,
    }.items():
        checks.check_range(name, value, low=0)
    if teacher_size is not None:
        checks.check_positive("teacher_size", teacher_size)
    if steps is not None:
        checks.check_range("steps", steps, low=0)
    if sampler.num_images != len(source):
        raise ValueError(
            "`sampler` must be made from `source.labels`. Received: a sampler of "
            f"{sampler.num_images} images for {source.name} with {len(source)}"
        )
    reader = ImageReader(source, input_size, unreadable)
    for_teacher = reader.resized(teacher_size or input_size)
    augmentation = augmentation or None
    rows = sampler.batch_size

    def plan_and_read(step):
        indices, in_margin = sampler.batch(step)
        flips = flip_mask(seed, step, rows) if flip else np.zeros(rows, bool)
        columns = NUM_DRAWS if augmentation else 0
        images, kind = reader.read(indices)
        return (
            images,
            (kind, for_teacher.kind_of(images) if teacher_size else kind),
            indices,
            flips,
            source.labels[indices].astype(np.int32),
            in_margin,
            augment_draws(seed, step, rows, columns),
        )

    pixels = tf.string if source.encoded else tf.uint8
    types = [pixels, tf.int64, tf.int64, tf.bool, tf.int32, tf.float32, tf.float32]

    def read_batch(step):
        images, kinds, *vectors, draws = tf.numpy_function(plan_and_read, [step], types)
        kinds.set_shape([2])
        images.set_shape([rows] if source.encoded else [rows, None, None, 3])
        for vector in vectors:
            vector.set_shape([rows])
        draws.set_shape([rows, NUM_DRAWS if augmentation else 0])
        return (images, kinds, *vectors, draws)

    def finish(images, indices, flips, labels, in_margin, draws, *of_teacher):
        batch = {
            "image": augmentation(images, draws) if augmentation else images,
            "label": labels,
            "in_margin": in_margin,
            "image_id": tf.cast(indices, tf.int32),
            "flipped": flips,
        }
        if teacher_size:
            seen = augmentation and augmentation.resized(input_size, teacher_size)
            images = of_teacher[0]
            batch["teacher_image"] = seen(images, draws) if seen else images
        return batch

    stop = np.iinfo(np.int64).max if steps is None else start_step + steps
    dataset = tf.data.Dataset.range(start_step, stop)
    dataset = dataset.map(read_batch, num_parallel_calls=CONCURRENT_BATCHES)
    if teacher_size:
        dataset = _decode_twice(dataset, reader, for_teacher, rows, mirror=flip)
    else:
        dataset = _decode(dataset, reader, rows, mirror=flip)
    dataset = dataset.map(finish, num_parallel_calls=CONCURRENT_BATCHES)
    if prefetch:
        dataset = dataset.prefetch(prefetch)
    return Pipeline(
        dataset.with_options(_options()),
        lambda step: reader.failure(sampler.batch(step)[0]),
        augmented=augmentation is not None,
        start_step=start_step,
        steps_per_epoch=sampler.steps_per_epoch if steps is None else None,
    )


def _decode(dataset, reader, rows, mirror):
    def first_kind(images, kinds, *others):
        return (images, kinds[0], *others)

    return reader.decode_batches(dataset.map(first_kind), rows, mirror)


def _decode_twice(dataset, reader, for_teacher, rows, mirror):
    """Adds what another reader makes of the images to the end of each element."""

    def keep_encoded(images, kinds, indices, *others):
        return (images, kinds, indices, *others, images, kinds[1], indices)

    def swap(pixels, replaced, *others):
        *others, images, kind, indices = others
        return (images, kind, indices, *others, pixels, replaced)

    def put_last(pixels, indices, *others):
        *others, of_student, _ = others
        return (of_student, indices, *others, pixels)

    dataset = _decode(dataset.map(keep_encoded), reader, rows, mirror)
    # Both put the same image in the place of an unreadable one.
    dataset = for_teacher.decode_batches(dataset.map(swap), rows, mirror)
    return dataset.map(put_last)


@tf.autograph.experimental.do_not_convert
def evaluation_batches(
    source: Source,
    indices,
    input_size: int,
    batch_size: int,
    unreadable: Unreadable | None = None,
):
    """Yields the images at `indices` in order, decoded as in training.

    Args:
        source: Where images come from.
        indices: Integer array `(n,)`, positions in `source`.
        input_size: Side of the images in pixels; others are resized.
        batch_size: Images per batch, >= 1. The last batch may hold fewer.
        unreadable: As for `make_pipeline`.

    Returns:
        Iterator of uint8 arrays `(batch, input_size, input_size, 3)`, RGB.

    Raises:
        ValueError: An argument is out of range; while iterating, more images are
            unreadable than are allowed (`UnreadableError`).
    """
    checks.check_positive("input_size", input_size)
    checks.check_range("batch_size", batch_size, low=1)
    indices = np.asarray(indices, dtype=np.int64)
    reader = ImageReader(source, input_size, unreadable)

    def read(start):
        chosen = indices[start : start + batch_size]
        return (*reader.read(chosen), chosen)

    pixels = tf.string if source.encoded else tf.uint8

    def read_batch(start):
        types = [pixels, tf.int64, tf.int64]
        images, kind, chosen = tf.numpy_function(read, [start], types)
        kind.set_shape([])
        images.set_shape([None] if source.encoded else [None, None, None, 3])
        chosen.set_shape([None])
        return images, kind, chosen

    dataset = tf.data.Dataset.range(0, len(indices), batch_size)
    dataset = dataset.map(read_batch, num_parallel_calls=CONCURRENT_BATCHES)
    dataset = reader.decode_batches(dataset).prefetch(2).with_options(_options())
    return _batches(dataset, reader, indices, batch_size)


def _batches(dataset, reader, indices, batch_size):
    """Yields the images; names those that end the dataset."""
    done = 0
    try:
        for images, _ in dataset.as_numpy_iterator():
            yield images
            done += batch_size
    except tf.errors.OpError as error:
        failure = reader.failure(indices[done : done + batch_size])
        if failure is None:
            raise
        raise failure from error
