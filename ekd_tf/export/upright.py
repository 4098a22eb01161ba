"""EXIF orientation in TensorFlow ops, for graphs that read photographs."""

from __future__ import annotations

import tensorflow as tf

_ORIENTATION, _SHORT = 0x0112, 3
# Bytes of a segment of EXIF data without an entry.
_EMPTY_EXIF = 16
_ENTRY_BYTES = 12
# Read beyond the end of a file, so that damaged EXIF data are no error.
_PADDING = b"\0" * 16
# EXIF data stand at the front; a file of nothing but headers must not take for ever.
_MOST_HEADERS = 1000


def upright(pixels: tf.Tensor, data: tf.Tensor) -> tf.Tensor:
    """Turns pixels `(height, width, 3)` of a JPEG or PNG, the string tensor `data`.

    They stay as they are where the file has no EXIF orientation, or a damaged one.
    """
    start = tf.cond(
        tf.io.is_jpeg(data), lambda: _exif_of_jpeg(data), lambda: _exif_of_png(data)
    )
    orientation = tf.cond(
        start < 0, lambda: 1, lambda: _orientation_of_exif(data, start)
    )

    def turn_if(orientations, turn):
        among = tf.reduce_any(tf.equal(orientation, orientations))
        return tf.cond(among, lambda: turn(pixels), lambda: pixels)

    pixels = turn_if((5, 6, 7, 8), lambda x: tf.transpose(x, [1, 0, 2]))
    pixels = turn_if((3, 4, 7, 8), lambda x: tf.reverse(x, [0]))
    return turn_if((2, 3, 6, 7), lambda x: tf.reverse(x, [1]))


def _exif_of_jpeg(data):
    """Returns where the EXIF data of a JPEG begin, -1 if it has none."""

    def before_pixels(at, start):
        marker = _number(data, at, 2)
        return (start < 0) & (marker >= 0xFF01) & (marker != 0xFFDA)

    def next_segment(at, start):
        marker = _number(data, at, 2)
        is_exif = (marker == 0xFFE1) & (_slice(data, at + 4, 6) == b"Exif\0\0")
        is_exif &= _number(data, at + 2, 2) > _EMPTY_EXIF
        # A marker may be preceded by any number of fill bytes.
        length = tf.where(marker == 0xFFFF, 1, 2 + _number(data, at + 2, 2))
        return at + length, tf.where(is_exif, at + 10, start)

    return tf.while_loop(
        before_pixels, next_segment, (2, -1), maximum_iterations=_MOST_HEADERS
    )[1]


def _exif_of_png(data):
    """Returns where the EXIF data of a PNG begin, -1 if it has none."""
    end = tf.strings.length(data)

    def within(at, start):
        return (start < 0) & (at >= 8) & (at < end)

    def next_chunk(at, start):
        is_exif = _slice(data, at + 4, 4) == b"eXIf"
        length = tf.maximum(_number(data, at, 4), 0)
        return at + 12 + length, tf.where(is_exif, at + 8, start)

    is_png = tf.strings.substr(data, 0, 4) == b"\x89PNG"
    first = tf.where(is_png, 8, end)
    return tf.while_loop(
        within, next_chunk, (first, -1), maximum_iterations=_MOST_HEADERS
    )[1]


def _orientation_of_exif(data, start):
    is_little = _slice(data, start, 2) == b"II"
    directory = start + _number(data, start + 4, 4, is_little)
    count = _number(data, directory, 2, is_little)
    entries = _slice(data, directory + 2, count * _ENTRY_BYTES)
    entries = tf.io.decode_raw(entries, tf.uint8)
    whole = tf.size(entries) // _ENTRY_BYTES * _ENTRY_BYTES
    entries = tf.cast(tf.reshape(entries[:whole], [-1, _ENTRY_BYTES]), tf.int32)

    def short(column):
        first, second = entries[:, column], entries[:, column + 1]
        return tf.where(is_little, second * 256 + first, first * 256 + second)

    wanted = (short(0) == _ORIENTATION) & (short(2) == _SHORT)
    # The last 1 is for data without an orientation.
    return tf.concat([tf.boolean_mask(short(8), wanted), [1]], axis=0)[0]


def _number(data, at, length, is_little=False):
    """Returns the whole number of 2 or 4 bytes at a place, int32; large ones wrap."""
    values = tf.cast(tf.io.decode_raw(_slice(data, at, length), tf.uint8), tf.int32)
    values = tf.where(is_little, values, values[::-1])
    return tf.reduce_sum(values * [1 << 8 * i for i in range(length)])


def _slice(data, at, length):
    at = tf.clip_by_value(at, 0, tf.strings.length(data))
    return tf.strings.substr(data + _PADDING, at, tf.maximum(length, 0))
