"""Batches of encoded bytes -> batches of RGB pixels, with a way out of bad files."""

from __future__ import annotations

import copy

import numpy as np
import tensorflow as tf
from absl import logging

from ekd_tf.data.augment import random_flip
from ekd_tf.data.image_header import EXPECTED
from ekd_tf.data.image_header import UNKNOWN
from ekd_tf.data.image_header import BatchClassifier
from ekd_tf.data.image_header import classify
from ekd_tf.data.one_image import decodable
from ekd_tf.data.one_image import decode_plain
from ekd_tf.data.one_image import fit
from ekd_tf.data.one_image import plain
from ekd_tf.data.source import Source
from ekd_tf.data.unreadable import Unreadable

# Batches in each stage of a pipeline at once: two hide the latency of a disk and keep
# all threads busy where one batch ends; more would hold memory and wait for Python.
CONCURRENT_BATCHES = 2
# Images of one batch that may be decoded at once, on as many threads as there are.
PARALLEL_IMAGES = 64


class ImageReader:
    """Reads and decodes batches of a source's images.

    Args:
        source: A `Source`.
        size: Side of the images in pixels; others are resized. The first change of
            aspect ratio is logged.
        unreadable: Counts the unreadable images, each of which is replaced by the next
            readable one of its identity. Default: none is allowed.

    Attributes:
        failures: The errors about unreadable images that ended a dataset.
    """

    def __init__(self, source: Source, size: int, unreadable: Unreadable | None = None):
        self.source = source
        self.size = size
        self.unreadable = unreadable or Unreadable()
        self.failures = []
        self._shape = [size, size, 3]
        self._spec = tf.TensorSpec(self._shape, tf.uint8)
        self._classify = BatchClassifier(size)
        self._said = False

    def resized(self, size: int) -> ImageReader:
        """Returns a reader of the same images at another size.

        Both count the unreadable ones together.
        """
        other = copy.copy(self)
        other.size = size
        other._shape = [size, size, 3]
        other._spec = tf.TensorSpec(other._shape, tf.uint8)
        other._classify = BatchClassifier(size)
        other._said = False
        return other

    # --- Python, called from within tf.data ------------------------------------

    def read(self, indices):
        """Reads a batch in a form tf.numpy_function can pass on.

        Encoded images that are not plain are encoded anew. Those that cannot be read
        are empty, so that decoding fails and `repair` is asked.

        Args:
            indices: int64 `(batch,)`.

        Returns:
            `(images, kind)`: an array, and int64 how it is to be decoded, see
            `image_header.classify`.
        """
        if not self.source.encoded:
            pixels = np.asarray(self.source.read(indices))
            self.say_stretched(indices[:1], np.array([pixels.shape[1:3]]))
            return pixels, np.int64(EXPECTED)
        try:
            images = self.source.read(indices)
        except (OSError, ValueError):
            images = [self._read_one(index)[0] for index in indices]
        kind = self.kind_of(images)
        if kind == UNKNOWN:
            images = [self._as_plain(data) for data in images]
            kind = self.kind_of(images)
        # Without dtype=object NumPy would strip trailing zero bytes.
        return np.array(images, dtype=object), kind

    def _as_plain(self, data):
        if classify(data, self.size) != UNKNOWN:
            return data
        return plain(data)[0] or b""

    def kind_of(self, images) -> np.int64:
        """Returns how images that a reader of any size has read are decoded to this."""
        return np.int64(self._classify(images) if self.source.encoded else EXPECTED)

    def _read_one(self, index):
        """Returns `(bytes, None)` or `(b"", reason)`."""
        try:
            data = self.source.read(np.array([index]))[0]
        except OSError as error:
            return b"", error.strerror or str(error)
        except ValueError as error:
            # The place is said by whoever asks for the reason.
            place = self.source.describe(index)
            return b"", str(error).removeprefix(place).lstrip(": ")
        return data, None if len(data) else "the file is empty"

    def readable(self, index: int):
        """Returns `(bytes TensorFlow decodes, or pixels, None)` or `(None, reason)`."""
        data, reason = self._read_one(index)
        if reason:
            return None, reason
        return decodable(data) if self.source.encoded else (data, None)

    def failure(self, indices) -> ValueError | None:
        """Returns what is wrong with a batch that ended the dataset, or None."""
        if not self.failures:
            try:
                self.repair(indices)
            except ValueError:
                # Noted where it was raised.
                pass
        return self.failures[0] if self.failures else None

    def repair(self, indices):
        """Reads one by one the images of a batch that did not decode as a whole.

        Args:
            indices: int64 `(batch,)`.

        Returns:
            `(images, indices)`: encoded images that decode, and where they come from.

        Raises:
            UnreadableError: More images are unreadable than are allowed.
            ValueError: An identity has no other image.
        """
        images = []
        indices = np.array(indices)
        for row, index in enumerate(indices):
            try:
                indices[row], data = self._first_readable(int(index))
            except ValueError as error:
                # tf.data makes text of it: whoever catches that finds it here.
                self.failures.append(error)
                raise
            images.append(data)
        return np.array(images, dtype=object), indices

    def _first_readable(self, index):
        data, reason = self.readable(index)
        if data is not None:
            return index, data
        self._count_bad(index, reason)
        labels = self.source.labels
        others = np.flatnonzero(labels == labels[index])
        after = np.searchsorted(others, index) + 1
        for other in np.roll(others, -after)[:-1]:
            data, reason = self.readable(other)
            if data is not None:
                return other, data
            self._count_bad(int(other), reason)
        raise ValueError(
            f"cannot decode {self.source.describe(index)}, nor any other image of its "
            "identity to replace it by; remove the identity"
        )

    def _count_bad(self, index, reason):
        self.unreadable.count(self.source.describe(index), reason)

    def say_stretched(self, indices, shapes):
        """Logs the first image of another aspect."""
        for index, (height, width) in zip(indices, shapes):
            if height != width and not self._said:
                self._said = True
                logging.warning(
                    "%s is %dx%d, not square; it and all such images are stretched to "
                    "%dx%d: crop or align faces to a square first",
                    self.source.describe(int(index)),
                    *(width, height, self.size, self.size),
                )
        return np.int64(0)

    # --- tf.data ---------------------------------------------------------------

    def decode_batches(self, dataset, batch_size=None, mirror=False):
        """Turns a dataset of what `read` returned into decoded batches.

        Args:
            dataset: Elements `(images, kind, indices, *others)`: what `read` returned
                of int64 `indices` `(batch,)`, and any more tensors.
            batch_size: The static batch size, or None where it varies.
            mirror: Whether the first of `others` is bool `(batch,)`: the images to
                mirror left to right.

        Returns:
            Dataset of `(images, indices, *others)`: uint8 `(batch, size, size, 3)`,
            and the indices the images come from, replacements included.
        """
        if not self.source.encoded:

            def fit_batch(images, _, indices, *others):
                images = tf.ensure_shape(images, [batch_size, None, None, 3])
                images = fit(images, self.size)
                if mirror:
                    images = random_flip(images, others[0])
                return (images, indices, *others)

            return dataset.map(fit_batch, num_parallel_calls=CONCURRENT_BATCHES)

        def shaped(pixels, indices):
            pixels = tf.ensure_shape(pixels, [batch_size, *self._shape])
            return pixels, tf.ensure_shape(indices, [batch_size])

        def decode_by_header(images, kind, indices, *others):
            flips = others[0] if mirror else None
            decoded = tf.switch_case(
                tf.cast(kind, tf.int32),
                [
                    lambda f=function: shaped(*f(images, indices, flips))
                    for function in self._attempts
                ],
            )
            return (*decoded, *others)

        def decode_by_trial(images, _, indices, *others):
            flips = others[0] if mirror else None

            def attempt(function):
                def decoded(images, indices):
                    return (*shaped(*function(images, indices, flips)), *others)

                return tf.data.Dataset.from_tensors((images, indices)).map(decoded)

            # A later attempt is only started when those before it yield nothing.
            *early, last = map(attempt, self._attempts)
            trials = [trial.ignore_errors() for trial in early]
            return trials[0].concatenate(trials[1]).concatenate(last).take(1)

        if not self.unreadable.allowed:
            return dataset.map(decode_by_header, num_parallel_calls=CONCURRENT_BATCHES)
        # Whatever the header promised, an image that does not decode costs its batch
        # another attempt and not the run; a dataset for each batch has its price.
        return dataset.interleave(
            decode_by_trial,
            cycle_length=CONCURRENT_BATCHES,
            num_parallel_calls=CONCURRENT_BATCHES,
            deterministic=True,
        )

    @property
    def _attempts(self):
        """Ways to decode a batch, in the order of `image_header.classify`."""
        return self._decode_expected, self._decode_any, self._decode_repaired

    def _decode_expected(self, images, indices, flips):
        """Decodes plain images of the right size; any other is an error.

        Asking each image what it is costs a fifth of decoding it.
        """

        def decode(data, *flip):
            image = tf.ensure_shape(decode_plain(data), self._shape)
            return _mirror(image, *flip)

        return _map_rows(decode, images, flips, self._spec), indices

    def _decode_any(self, images, indices, flips):
        def decode(data, *flip):
            image = decode_plain(data)
            return _mirror(fit(image, self.size), *flip), tf.shape(image)[:2]

        pixels, shapes = _map_rows(
            decode, images, flips, (self._spec, tf.TensorSpec([2], tf.int32))
        )
        said = tf.numpy_function(self.say_stretched, [indices, shapes], tf.int64)
        with tf.control_dependencies([said]):
            return tf.identity(pixels), indices

    def _decode_repaired(self, images, indices, flips):
        return self._decode_any(*self._repair_in_graph(indices), flips)

    def _repair_in_graph(self, indices):
        images, repaired = tf.numpy_function(
            self.repair, [indices], [tf.string, tf.int64]
        )
        return tf.ensure_shape(images, [None]), tf.ensure_shape(repaired, [None])


def _map_rows(decode, images, flips, signature):
    """Decodes the images of a batch side by side; `flips` may be None."""
    return tf.map_fn(
        lambda row: decode(*row),
        (images,) if flips is None else (images, flips),
        fn_output_signature=signature,
        parallel_iterations=PARALLEL_IMAGES,
    )


def _mirror(image, flip=None):
    """Mirrors one image, still in cache: half the cost of mirroring a batch."""
    if flip is None:
        return image
    return tf.cond(flip, lambda: tf.reverse(image, [1]), lambda: image)
