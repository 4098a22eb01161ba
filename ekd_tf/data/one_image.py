"""Encoded bytes of one image -> RGB pixels of a size."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import tensorflow as tf

from ekd_tf.data.image_pixels import plain_size
from ekd_tf.data.image_pixels import read_image


def decode_plain(data: tf.Tensor) -> tf.Tensor:
    """Decodes what has an `image_pixels.plain_size` to uint8 RGB, as Pillow does."""
    # Reads PNG too, and with the same pixels as tf.io.decode_png.
    return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")


def decode_image(data: tf.Tensor) -> tf.Tensor:
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
        lambda: decode_plain(data),
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


def fit(images: tf.Tensor, size: int) -> tf.Tensor:
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
        return round_pixels(resized)

    is_fit = tf.reduce_all(tf.equal(tf.shape(images)[-3:-1], size))
    fitted = tf.cond(is_fit, lambda: images, resize)
    batch = [] if images.shape.rank == 3 else [images.shape[0]]
    return tf.ensure_shape(fitted, [*batch, size, size, 3])


def round_pixels(values: tf.Tensor) -> tf.Tensor:
    """Rounds what a resize gave to uint8 pixels.

    Halves are common, as weights are fractions of small numbers, and come out a little
    above or below. All go up, so that another program that adds in another order gets
    the same pixels.

    Args:
        values: Float tensor.
    """
    return tf.saturate_cast(tf.floor(values + 0.501), tf.uint8)


def as_plain(data: bytes) -> bytes:
    """Returns an image as bytes `decode_plain` takes, those it was given where it can.

    Another image is read by Pillow, turned upright and, where it is very large, shrunk.

    Raises:
        ValueError: It cannot be read; the message is the reason alone.
    """
    return data if plain_size(data) else _png(read_image(data, shrink=True))


def decodable(data: bytes) -> str | None:
    """Returns why an image cannot be decoded, None where it can."""
    try:
        data = as_plain(data)
        decode_plain(tf.constant(data))
    except ValueError as error:
        return str(error)
    except tf.errors.OpError:
        pass
    else:
        return None
    # Pillow has the better words, but passes over some damage.
    try:
        read_image(data)
    except ValueError as error:
        return str(error)
    return "it is damaged"


def _png(pixels):
    """Returns pixels `(height, width, 3)` as a PNG that is not compressed.

    Pillow takes 240 us to write 112x112, this 34, and TensorFlow reads it back in 105.
    """
    height, width, _ = pixels.shape
    # The first byte of a row says that the row is not filtered.
    rows = np.zeros((height, 1 + 3 * width), np.uint8)
    rows[:, 1:] = pixels.reshape(height, -1)

    def chunk(name, content):
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body
