"""Batches of encoded bytes -> batches of RGB pixels, with a way out of bad files."""

from __future__ import annotations

import io
import threading

import numpy as np
import tensorflow as tf
from absl import logging
from PIL import Image
from PIL import UnidentifiedImageError

from ekd_tf.data.source import Source

# Batches in each stage of a pipeline at once: two hide the latency of a disk and keep
# all threads busy where one batch ends; more would hold memory and wait for Python.
CONCURRENT_BATCHES = 2


def decode_image(data):
    """Decodes a JPEG, PNG, BMP or GIF to uint8 `(height, width, 3)`, RGB.

    Grayscale is repeated over the channels and an alpha channel is dropped. JPEG
    pixels equal those of Pillow and OpenCV. Formats and variants TensorFlow does not
    read correctly are an error.

    Args:
        data: Scalar string tensor.
    """
    # The accurate inverse transform is not an argument of tf.io.decode_image.
    image = tf.cond(
        tf.io.is_jpeg(data),
        lambda: tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: _decode_other(data),
    )
    return tf.ensure_shape(image, [None, None, 3])


def _decode_other(data):
    # TensorFlow takes the palette positions of a BMP below 24 bits for gray values;
    # without its bytes such an image fails like any other it cannot read.
    is_bmp = tf.equal(tf.strings.substr(data, 0, 2), b"BM")
    bits = tf.io.decode_raw(tf.strings.substr(data, 28, 2), tf.uint16)[0]
    data = tf.where(is_bmp & (tf.cast(bits, tf.int32) < 24), b"", data)
    return tf.io.decode_image(data, channels=3, expand_animations=False)


def fit(images, size):
    """Resizes uint8 images to `size` x `size`, antialiased; a no-op at that size.

    Args:
        images: uint8 tensor `(height, width, 3)` or `(batch, height, width, 3)`.
        size: Side in pixels. Another aspect ratio is stretched.
    """

    images = tf.convert_to_tensor(images)
    height, width = images.shape[-3:-1]
    if height == width == size:
        return images

    def resize():
        resized = tf.image.resize(images, [size, size], antialias=True)
        return tf.saturate_cast(tf.round(resized), tf.uint8)

    is_fit = tf.reduce_all(tf.equal(tf.shape(images)[-3:-1], size))
    fitted = tf.cond(is_fit, lambda: images, resize)
    batch = [] if images.shape.rank == 3 else [images.shape[0]]
    return tf.ensure_shape(fitted, [*batch, size, size, 3])


def decodable(data: bytes):
    """Returns `(bytes TensorFlow decodes, None)` or `(None, reason)`.

    What only Pillow decodes is encoded anew, without loss.
    """
    try:
        decode_image(tf.constant(data))
        return data, None
    except tf.errors.OpError:
        pass
    png = io.BytesIO()
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.convert("RGB").save(png, format="PNG")
    except UnidentifiedImageError:
        return None, "not an image in a format that is read"
    # Damaged files raise nearly anything out of Pillow's parsers.
    except Exception as error:
        return None, f"{error}" or type(error).__name__
    return png.getvalue(), None


class ImageReader:
    """Reads and decodes batches of a source's images.

    Args:
        source: A `Source`.
        size: Side of the images in pixels; others are resized, which is logged once,
            as is the first change of aspect ratio.
        skip_corrupt: How many distinct unreadable images to replace, each by the next
            readable image of its identity. One more is an error.

    Attributes:
        skipped: `"path: reason"` of each unreadable image met so far.
    """

    def __init__(self, source: Source, size: int, skip_corrupt: int = 0):
        self.source = source
        self.size = size
        self.skip_corrupt = skip_corrupt
        self.skipped = []
        self.failures = []
        self._bad = set()
        self._said = set()
        self._lock = threading.Lock()

    # --- Python, called from within tf.data ------------------------------------

    def read(self, indices):
        """Returns the images at `indices` as an array tf.numpy_function can pass on.

        Encoded images that cannot be read are empty, so that decoding fails and
        `repair` is asked.
        """
        if not self.source.encoded:
            pixels = np.asarray(self.source.read(indices))
            self.say_resized(indices[:1], np.array([pixels.shape[1:3]]))
            return pixels
        try:
            images = self.source.read(indices)
        except (OSError, ValueError):
            images = [self._read_one(index)[0] for index in indices]
        # Without dtype=object NumPy would strip trailing zero bytes.
        return np.array(images, dtype=object)

    def _read_one(self, index):
        """Returns `(bytes, None)` or `(b"", reason)`."""
        try:
            data = self.source.read(np.array([index]))[0]
        except OSError as error:
            return b"", error.strerror or str(error)
        except ValueError as error:
            # The place is said by whoever asks for the reason.
            return b"", str(error).removeprefix(f"{self.source.describe(index)}: ")
        return data, None if data else "the file is empty"

    def _readable(self, index):
        """Returns `(bytes TensorFlow decodes, None)` or `(None, reason)`."""
        data, reason = self._read_one(index)
        if reason:
            return None, reason
        return decodable(data)

    def repair(self, indices):
        """Reads one by one the images of a batch that did not decode as a whole.

        Args:
            indices: int64 `(batch,)`.

        Returns:
            `(images, indices)`: encoded images that decode, and where they come from.

        Raises:
            ValueError: More images are unreadable than `skip_corrupt` allows, or an
                identity has no other image.
        """
        images = []
        indices = np.array(indices)
        for row, index in enumerate(indices):
            try:
                indices[row], data = self._first_readable(int(index))
            except ValueError as error:
                # tf.data wraps it in a traceback: whoever catches that finds the
                # words here.
                self.failures.append(str(error))
                raise
            images.append(data)
        return np.array(images, dtype=object), indices

    def _first_readable(self, index):
        data, reason = self._readable(index)
        if data is not None:
            return index, data
        self._count_bad(index, reason)
        labels = self.source.labels
        others = np.flatnonzero(labels == labels[index])
        after = np.searchsorted(others, index) + 1
        for other in np.roll(others, -after)[:-1]:
            data, reason = self._readable(other)
            if data is not None:
                return other, data
            self._count_bad(int(other), reason)
        raise ValueError(
            f"cannot decode {self.source.describe(index)}, nor any other image of its "
            "identity to replace it by; remove the identity"
        )

    def _count_bad(self, index, reason):
        with self._lock:
            if index not in self._bad:
                self._bad.add(index)
                self.skipped.append(f"{self.source.describe(index)}: {reason}")
                logging.warning("unreadable image %s", self.skipped[-1])
            too_many = len(self._bad) > self.skip_corrupt
        if not too_many:
            return
        if len(self.skipped) == 1:
            raise ValueError(
                f"cannot decode {self.skipped[0]}; remove it or allow N with "
                "--skip_corrupt=N"
            )
        listed = "\n  ".join(self.skipped)
        raise ValueError(
            f"cannot decode {len(self.skipped)} images, --skip_corrupt="
            f"{self.skip_corrupt} allows {self.skip_corrupt}; remove them or allow "
            f"more:\n  {listed}"
        )

    def say_resized(self, indices, shapes):
        """Logs the first image of another size and the first of another aspect."""
        for index, (height, width) in zip(indices, shapes):
            if height == width == self.size:
                continue
            if "size" not in self._said:
                self._said.add("size")
                logging.warning(
                    "%s is %dx%d; it and all images of another size are resized to "
                    "%dx%d",
                    self.source.describe(int(index)),
                    *(width, height, self.size, self.size),
                )
            if height != width and "aspect" not in self._said:
                self._said.add("aspect")
                logging.warning(
                    "%s is %dx%d, not square; it and all such images are stretched to "
                    "%dx%d: crop or align faces to a square first",
                    self.source.describe(int(index)),
                    *(width, height, self.size, self.size),
                )
        return np.int64(0)

    # --- tf.data ---------------------------------------------------------------

    def decode_batches(self, dataset, batch_size=None):
        """Turns a dataset of `(images, indices, *others)` into decoded batches.

        Args:
            dataset: Elements `images` as `read` returned them, int64 `indices`
                `(batch,)`, and any more tensors.
            batch_size: The static batch size, or None where it varies.

        Returns:
            Dataset of `(images, indices, *others)`: uint8 `(batch, size, size, 3)`,
            and the indices the images come from, replacements included.
        """
        if not self.source.encoded:

            def fit_batch(images, *others):
                images = tf.ensure_shape(images, [batch_size, None, None, 3])
                return (fit(images, self.size), *others)

            return dataset.map(fit_batch, num_parallel_calls=CONCURRENT_BATCHES)

        def decode_batch(images, indices, *others):
            rows = tf.size(indices, out_type=tf.int64)
            whole = self._decode_rows(images, indices, rows).ignore_errors()
            one_by_one = tf.data.Dataset.from_tensors(indices).map(
                self._repair_in_graph
            )
            one_by_one = one_by_one.flat_map(
                lambda images, indices: self._decode_rows(images, indices, rows)
            )
            # The second is only started when the first yields nothing.
            decoded = whole.concatenate(one_by_one).take(1)
            return decoded.map(
                lambda images, indices: (
                    tf.ensure_shape(images, [batch_size, self.size, self.size, 3]),
                    tf.ensure_shape(indices, [batch_size]),
                    *others,
                )
            )

        return dataset.interleave(
            decode_batch,
            cycle_length=CONCURRENT_BATCHES,
            num_parallel_calls=CONCURRENT_BATCHES,
            deterministic=True,
        )

    def _decode_rows(self, images, indices, rows):
        """A dataset of one decoded batch, or of an error if an image is bad."""

        def decode_row(data):
            image = decode_image(data)
            return fit(image, self.size), tf.shape(image)[:2]

        decoded = tf.data.Dataset.from_tensor_slices(images).map(
            decode_row, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )

        def say_resized(pixels, shapes):
            resized = tf.reduce_any(tf.not_equal(shapes, self.size))
            said = tf.cond(
                resized,
                lambda: tf.numpy_function(
                    self.say_resized, [indices, shapes], tf.int64
                ),
                lambda: tf.constant(0, tf.int64),
            )
            with tf.control_dependencies([said]):
                return tf.identity(pixels), indices

        return decoded.batch(rows, drop_remainder=True).map(say_resized)

    def _repair_in_graph(self, indices):
        images, repaired = tf.numpy_function(
            self.repair, [indices], [tf.string, tf.int64]
        )
        return tf.ensure_shape(images, [None]), tf.ensure_shape(repaired, [None])
