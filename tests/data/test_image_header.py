"""Tests for `ekd_tf.data.image_header`."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from ekd_tf.data.image_header import EXPECTED
from ekd_tf.data.image_header import OTHER
from ekd_tf.data.image_header import UNKNOWN
from ekd_tf.data.image_header import classify


def encode(kind, mode="RGB", size=(20, 20), **options):
    width, height = size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        encode("JPEG"),
        encode("JPEG", "L"),
        encode("JPEG", progressive=True),
        encode("JPEG", exif=b"Exif\0\0" + b"\xff\xc0" * 40),
        encode("JPEG") + b"\0" * 16,
        encode("PNG"),
        encode("PNG", "RGBA"),
        encode("PNG", "P"),
    ],
    ids=["jpeg", "gray", "progressive", "exif", "padded", "png", "rgba", "palette"],
)
def test_expects_what_decode_jpeg_gives_that_size(data):
    assert classify(data, 20) == EXPECTED
    assert tf.io.decode_jpeg(data, channels=3).shape == (20, 20, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [(20, 16), (16, 20), (276, 276)])
def test_another_size_in_either_direction(kind, size):
    # 276 is 20 in its lower byte.
    assert classify(encode(kind, size=size), 20) == OTHER


@pytest.mark.parametrize("kind", ["BMP", "GIF"])
def test_formats_that_decode_image_reads(kind):
    data = encode(kind)
    assert classify(data, 20) == OTHER
    assert tf.io.decode_image(data, 3, expand_animations=False).shape == (20, 20, 3)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\xff\xd8\xff",
        encode("JPEG", "CMYK"),
        encode("JPEG")[:-3],
        encode("PNG")[:-3],
        encode("WEBP", lossless=True),
        encode("BMP", "P"),
        encode("BMP")[:20],
        b"\xff\xd8" + b"\xff" * 30 + b"\xff\xd9",
    ],
    ids="empty text magic cmyk cut_jpeg cut_png webp bmp8 cut_bmp fill".split(),
)
def test_all_else_is_left_to_the_slow_way(data):
    assert classify(data, 20) == UNKNOWN
