"""Encoded bytes of one image -> RGB pixels of a size."""

from __future__ import annotations

import io

import tensorflow as tf
from PIL import Image

from ekd_tf.data.image_header import UNKNOWN
from ekd_tf.data.image_header import classify
from ekd_tf.data.image_pixels import read_image


def decode_plain(data):
    """Decodes what `image_header.classify` calls plain to uint8 RGB.

    Args:
        data: Scalar string tensor, a JPEG or PNG. The pixels equal those of Pillow.
    """
    # Reads PNG too, and with the same pixels as tf.io.decode_png.
    return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")


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
        return round_pixels(resized)

    is_fit = tf.reduce_all(tf.equal(tf.shape(images)[-3:-1], size))
    fitted = tf.cond(is_fit, lambda: images, resize)
    batch = [] if images.shape.rank == 3 else [images.shape[0]]
    return tf.ensure_shape(fitted, [*batch, size, size, 3])


def round_pixels(values):
    """Rounds what a resize gave to uint8 pixels.

    Halves are common, as weights are fractions of small numbers, and come out a little
    above or below. All go up, so that another program that adds in another order gets
    the same pixels.

    Args:
        values: Float tensor.
    """
    return tf.saturate_cast(tf.floor(values + 0.501), tf.uint8)


def decodable(data: bytes):
    """Returns `(bytes TensorFlow decodes, None)` or `(None, reason)`.

    What is not plain in the sense of `image_header.classify` is encoded anew, without
    loss; if it is very large, at a part of its size.
    """
    if classify(data, size=1) == UNKNOWN:
        return plain(data)
    try:
        decode_plain(tf.constant(data))
    except tf.errors.OpError:
        # Pillow has the better words, but passes over some damage.
        return None, plain(data)[1] or "it is damaged"
    return data, None


def plain(data: bytes):
    """Returns `(PNG, None)` of an image in any format, upright, or `(None, reason)`."""
    png = io.BytesIO()
    try:
        image = Image.fromarray(read_image(data, shrink=True))
    except ValueError as error:
        return None, str(error)
    # To press it would take longer than to decode it.
    image.save(png, format="PNG", compress_level=0)
    return png.getvalue(), None
