"""Encoded bytes of one image -> RGB pixels of a size, by TensorFlow."""

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
    """Decodes a JPEG, PNG, BMP or GIF, a scalar string, to uint8 RGB.

    Gray is repeated over the channels, alpha is dropped. JPEG pixels equal those of
    Pillow and OpenCV. What TensorFlow does not read correctly is an error.
    """
    # The accurate inverse transform is not an argument of tf.io.decode_image.
    image = tf.cond(
        tf.io.is_jpeg(data), lambda: decode_plain(data), lambda: _decode_other(data)
    )
    return tf.ensure_shape(image, [None, None, 3])


def _decode_other(data):
    # TensorFlow takes the palette positions of a BMP below 24 bits for gray values;
    # without its bytes such an image fails like any other it cannot read.
    is_bmp = tf.equal(tf.strings.substr(data, 0, 2), b"BM")
    bits = tf.io.decode_raw(tf.strings.substr(data, 28, 2), tf.uint16)[0]
    is_webp = tf.equal(tf.strings.substr(data, 8, 4), b"WEBP")
    unread = is_webp | is_bmp & (tf.cast(bits, tf.int32) < 24)
    data = tf.where(unread, b"", data)
    return tf.io.decode_image(data, channels=3, expand_animations=False)


def fit(images: tf.Tensor, size: int) -> tf.Tensor:
    """Resizes uint8 `(..., height, width, 3)` to `size` x `size`, antialiased.

    Another aspect ratio is stretched; images of that size come back as they are.
    """
    images = tf.convert_to_tensor(images)
    height, width = images.shape[-3:-1]
    if height == width == size:
        return images

    def resize():
        resized = tf.image.resize(images, [size, size], antialias=True)
        # Halves are common, as weights are fractions of small numbers, and come out a
        # little above or below. All go up, so that another program that adds in
        # another order gets the same pixels.
        return tf.saturate_cast(tf.floor(resized + 0.501), tf.uint8)

    is_fit = tf.reduce_all(tf.equal(tf.shape(images)[-3:-1], size))
    fitted = tf.cond(is_fit, lambda: images, resize)
    return tf.ensure_shape(fitted, [*images.shape[:-3], size, size, 3])


def as_plain(data: bytes) -> bytes:
    """Returns an image as bytes `decode_plain` takes, those given where it can.

    Another is read by Pillow, turned upright and, where it is very large, shrunk.

    Raises:
        ValueError: It cannot be read; the message is the reason alone.
    """
    return data if plain_size(data) else _png(read_image(data, shrink=True))


def decodable(data: bytes) -> str | None:
    """Returns why an image cannot be decoded, None where it can."""
    try:
        decode_plain(tf.constant(as_plain(data)))
    except ValueError as error:
        return str(error)
    except tf.errors.OpError:
        # Pillow has the better words, but passes over some damage.
        try:
            read_image(data)
        except ValueError as error:
            return str(error)
        return "it is damaged"
    return None


def _png(pixels):
    """Returns pixels `(height, width, 3)` as a PNG that is not compressed.

    Pillow takes 280 us to write 112x112, as long as to read a WebP, this 34.
    """
    height, width, _ = pixels.shape
    # The first byte of a row says that the row is not filtered.
    rows = np.pad(pixels.reshape(height, -1), ((0, 0), (1, 0)))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n"
    for name, content in (
        (b"IHDR", header),
        (b"IDAT", zlib.compress(rows, 0)),
        (b"IEND", b""),
    ):
        checksum = struct.pack(">I", zlib.crc32(name + content))
        png += struct.pack(">I", len(content)) + name + content + checksum
    return png
