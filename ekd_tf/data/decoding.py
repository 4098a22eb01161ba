"""Batches of encoded bytes -> batches of RGB pixels, with a way out of bad files."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from absl import logging

from ekd_tf.data.image_pixels import as_plain
from ekd_tf.data.image_pixels import decodable
from ekd_tf.data.image_pixels import decode_plain
from ekd_tf.data.image_pixels import fit
from ekd_tf.data.source import Source
from ekd_tf.data.unreadable import Unreadable

# Batches in each stage of a pipeline at once: two hide the latency of a disk and keep
# all threads busy where one batch ends; more would hold memory.
CONCURRENT_BATCHES = 2
# Images of one batch that may be decoded at once, on as many threads as there are.
_PARALLEL_IMAGES = 64


class ImageReader:
    """Reads and decodes batches of a source's images.

    Args:
        source: Where images come from.
        sizes: Name -> side in pixels of each form an image is wanted in.
        unreadable: Counts the unreadable images, each of which is replaced by the next
            readable one of its identity: `Unreadable(N)` allows N. Default: none is.
    """

    def __init__(
        self,
        source: Source,
        sizes: dict[str, int],
        unreadable: Unreadable | None = None,
    ):
        self.source = source
        self.sizes = sizes
        self.unreadable = unreadable or Unreadable()
        self._is_stretch_logged = False

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Reads a batch; called from within tf.data.

        Returned are bytes `decode_plain` takes, empty where an image cannot be read, or
        the pixels of a source of pixels. Where none may be unreadable one that is
        raises `UnreadableError`.
        """
        if not self.source.encoded:
            images = np.asarray(self.source.read(indices))
            self._log_stretched(indices[0], images.shape[1:3])
            return images
        try:
            images = list(self.source.read(indices))
        except (OSError, ValueError):
            images = [self._read_one(index)[0] for index in indices]
        for row, index in enumerate(indices):
            try:
                images[row], size = as_plain(images[row])
                self._log_stretched(index, size)
            except ValueError:
                images[row] = b""
        if not self.unreadable.allowed and not all(images):
            self.replace_unreadable(indices)
        # Without dtype=object NumPy would strip trailing zero bytes.
        return np.array(images, dtype=object)

    def _read_one(self, index):
        """Returns `(bytes or pixels, None)` or `(b"", reason)`."""
        try:
            data = self.source.read(np.array([index]))[0]
        except OSError as error:
            return b"", error.strerror or str(error)
        except ValueError as error:
            # Where the reason is asked for names the place.
            place = self.source.describe(index)
            return b"", str(error).removeprefix(place).lstrip(": ")
        return data, None if len(data) else "the file is empty"

    def why_unreadable(self, index: int) -> str | None:
        """Returns why an image cannot be read or decoded, None where it can."""
        data, reason = self._read_one(index)
        return decodable(data) if self.source.encoded and not reason else reason

    def replace_unreadable(self, indices: np.ndarray) -> np.ndarray:
        """Returns the indices of a batch, unreadable images replaced by others."""
        return np.array([self._first_readable(int(i)) for i in indices], np.int64)

    def _first_readable(self, index):
        labels = self.source.labels
        images = np.flatnonzero(labels == labels[index])
        for other in np.roll(images, -np.searchsorted(images, index)).tolist():
            reason = self.why_unreadable(other)
            if reason is None:
                return other
            self.unreadable.count(self.source.describe(other), reason)
        raise ValueError(
            f"cannot decode {self.source.describe(index)}, nor any other image of its "
            "identity to replace it by; remove the identity"
        )

    def _log_stretched(self, index, size):
        height, width = size
        if height == width or self._is_stretch_logged:
            return
        self._is_stretch_logged = True
        side = next(iter(self.sizes.values()))
        logging.warning(
            "%s is %dx%d, not square; it and all such images are stretched to %dx%d: "
            "crop or align faces to a square first",
            *(self.source.describe(int(index)), width, height, side, side),
        )

    @tf.autograph.experimental.do_not_convert
    def decode_batches(
        self,
        dataset: tf.data.Dataset,
        batch_size: int | None = None,
        draw: Callable | None = None,
    ) -> tf.data.Dataset:
        """Adds the decoded images, uint8 `(batch, size, size, 3)` by names of `sizes`.

        `dataset` holds dicts of `image_id` int64 `(batch,)`, which becomes that of the
        images used, and perhaps `flipped` bool `(batch,)`: which to mirror. `draw` adds
        to a batch what depends on the images used.
        """
        encoded = self.source.encoded

        def decoded(batch):
            batch = draw(batch) if draw else batch
            kind = tf.string if encoded else tf.uint8
            images = tf.numpy_function(self.read, [batch["image_id"]], kind)
            images.set_shape([batch_size] if encoded else [batch_size, None, None, 3])
            flips = batch.get("flipped")
            sizes = self.sizes.items()
            return {**batch, **{k: _decode_batch(images, n, flips) for k, n in sizes}}

        def replaced(batch):
            indices = tf.numpy_function(
                self.replace_unreadable, [batch["image_id"]], tf.int64
            )
            indices.set_shape(batch["image_id"].shape)
            return {**batch, "image_id": indices}

        def decoded_by_trial(batch):
            one = tf.data.Dataset.from_tensors(batch)
            # The second is only started when the first yields nothing.
            first, second = one.map(decoded), one.map(replaced).map(decoded)
            return first.ignore_errors().concatenate(second).take(1)

        if not (encoded and self.unreadable.allowed):
            return dataset.map(decoded, num_parallel_calls=CONCURRENT_BATCHES)
        # An image that does not decode costs its batch another attempt and not the
        # run; a dataset for each batch has its price.
        return dataset.interleave(
            decoded_by_trial,
            cycle_length=CONCURRENT_BATCHES,
            num_parallel_calls=CONCURRENT_BATCHES,
            deterministic=True,
        )


def _decode_batch(images, size, flips):
    """Decodes the images of a batch side by side; `flips` may be None."""

    def decode(row):
        image = row[0] if images.dtype == tf.uint8 else decode_plain(row[0])
        image = fit(image, size)
        if flips is None:
            return image
        # Mirrored one by one, still in cache: half the cost of mirroring a batch.
        return tf.cond(row[1], lambda: tf.reverse(image, [1]), lambda: image)

    pixels = tf.map_fn(
        decode,
        (images,) if flips is None else (images, flips),
        fn_output_signature=tf.TensorSpec([size, size, 3], tf.uint8),
        parallel_iterations=_PARALLEL_IMAGES,
    )
    return tf.ensure_shape(pixels, [images.shape[0], size, size, 3])
