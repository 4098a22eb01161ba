"""Source, sampler and augmentation -> tf.data.Dataset of global batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from ekd_tf import checks
from ekd_tf.data.augment import NUM_DRAWS
from ekd_tf.data.augment import Augmentation
from ekd_tf.data.augment import DrawnViews
from ekd_tf.data.decoding import CONCURRENT_BATCHES
from ekd_tf.data.decoding import ImageReader
from ekd_tf.data.sampling import BatchSampler
from ekd_tf.data.sampling import augment_draws
from ekd_tf.data.sampling import chosen_views
from ekd_tf.data.sampling import flip_mask
from ekd_tf.data.source import Source
from ekd_tf.data.unreadable import Unreadable


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """A dataset of global batches, the first of which is that of `start_step`.

    Attributes:
        check_images: Function of a step: after `tf.errors.OpError` ended the dataset
            where that batch was due, raises the error about its images, if any.
        steps_per_epoch: Batches of a visit of every image; None where the dataset
            ends by itself.
    """

    dataset: tf.data.Dataset
    check_images: Callable[[int], Any]
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
    augmentation: Augmentation | None = None,
    teacher_size: int | None = None,
    views: DrawnViews | None = None,
) -> Pipeline:
    """Builds the dataset whose batch i is `sampler.batch(start_step + i)`.

    Batches depend on (seed, step) alone: a pipeline started at step i continues the
    uninterrupted one bit for bit.

    Args:
        source: Where images come from.
        sampler: Made from `source.labels`.
        input_size: Side of the images in pixels. Others are resized with antialias.
        seed: Of the flips and the augmentation, >= 0.
        start_step: The first step, >= 0.
        steps: Number of batches, or None for no end.
        flip: Whether to mirror half of the images.
        unreadable: As for `ImageReader`.
        augmentation: What else is done to images.
        teacher_size: Side in pixels at which every image is given a second time, with
            the same flip and the same draws of the augmentation, whose crop is scaled.
        views: What decides flips and draws in place of `flip` and `seed`: a step takes
            one view of each image. Images are counted as in `source.origin()`.

    Returns:
        A `Pipeline` of dicts of `image` uint8 `(batch, input_size, input_size, 3)` RGB
        and, `(batch,)`, `label` int32, `in_margin` float32 (1 general, 0 balanced),
        `image_id` int32 (position in `source`), `flipped` bool; with `teacher_size`
        `teacher_image` like `image`, with `views` `view` int64 `(batch,)`.
    """
    sizes = {"image": input_size}
    if teacher_size is not None:
        sizes["teacher_image"] = teacher_size
    for name, size in zip(("input_size", "teacher_size"), sizes.values()):
        checks.check_positive(name, size)
    checks.check_range("seed", seed, low=0)
    checks.check_range("start_step", start_step, low=0)
    if steps is not None:
        checks.check_range("steps", steps, low=0)
    if sampler.num_images != len(source):
        raise ValueError(
            "`sampler` must be made from `source.labels`. Received: a sampler of "
            f"{sampler.num_images} images for {source.name} with {len(source)}"
        )
    reader = ImageReader(source, sizes, unreadable)
    augmentations = {}
    if augmentation:
        augmentations = {
            name: augmentation.resized(input_size, size) for name, size in sizes.items()
        }
    rows = sampler.batch_size
    columns = NUM_DRAWS if augmentation else 0
    types = {
        "image_id": tf.TensorSpec([rows], tf.int64),
        "in_margin": tf.TensorSpec([rows], tf.float32),
        "label": tf.TensorSpec([rows], tf.int32),
    }
    if views is None:
        types["flipped"] = tf.TensorSpec([rows], tf.bool)
        types["draws"] = tf.TensorSpec([rows, columns], tf.float32)
    else:
        types["view"] = tf.TensorSpec([rows], tf.int64)
        origin = tf.constant(source.origin()[1])

    def choose(step):
        indices, in_margin = sampler.batch(step)
        batch = {"image_id": indices, "in_margin": in_margin}
        batch["label"] = source.labels[indices].astype(np.int32)
        if views is not None:
            batch["view"] = chosen_views(seed, step, rows, views.count)
        else:
            flips = flip_mask(seed, step, rows) if flip else np.zeros(rows, bool)
            batch["flipped"] = flips
            batch["draws"] = augment_draws(seed, step, rows, columns)
        return [batch[name] for name in types]

    def chosen(step):
        values = tf.numpy_function(choose, [step], [t.dtype for t in types.values()])
        return {
            name: tf.ensure_shape(value, types[name].shape)
            for name, value in zip(types, values)
        }

    def with_draws(batch):
        # Of the images that are there: an unreadable one has been replaced.
        images = tf.gather(origin, batch["image_id"])
        flips, draws = views.draw(images, batch["view"])
        return {**batch, "flipped": flips, "draws": draws}

    def augmented(batch):
        # The reader has mirrored what is flipped.
        draws = batch.pop("draws")
        for name, augment in augmentations.items():
            batch[name] = augment(batch[name], draws)
        batch["image_id"] = tf.cast(batch["image_id"], tf.int32)
        return batch

    stop = np.iinfo(np.int64).max if steps is None else start_step + steps
    dataset = tf.data.Dataset.range(start_step, stop).map(chosen)
    dataset = reader.decode_batches(dataset, rows, with_draws if views else None)
    dataset = dataset.map(augmented, num_parallel_calls=CONCURRENT_BATCHES)
    return Pipeline(
        dataset.prefetch(2).with_options(_options()),
        lambda step: reader.replace_unreadable(sampler.batch(step)[0]),
        start_step=start_step,
        steps_per_epoch=sampler.steps_per_epoch if steps is None else None,
    )


def evaluation_batches(
    source: Source,
    indices: np.ndarray,
    input_size: int,
    batch_size: int,
    unreadable: Unreadable | None = None,
) -> Iterator[np.ndarray]:
    """Yields the images at `indices`, `(n,)`, in order, decoded as in training.

    They come as uint8 `(batch, input_size, input_size, 3)`, RGB; the last batch may
    hold fewer than `batch_size`. `unreadable` is as for `ImageReader`; one image more
    raises `UnreadableError`.
    """
    indices = np.asarray(indices, dtype=np.int64)
    reader = ImageReader(source, {"image": input_size}, unreadable)
    dataset = tf.data.Dataset.from_tensor_slices({"image_id": indices})
    dataset = reader.decode_batches(dataset.batch(batch_size))
    dataset = dataset.prefetch(2).with_options(_options())
    done = 0
    try:
        for batch in dataset.as_numpy_iterator():
            yield batch["image"]
            done += batch_size
    except tf.errors.OpError:
        reader.replace_unreadable(indices[done : done + batch_size])
        raise
