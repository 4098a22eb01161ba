"""Tests for `ekd_tf.data.image_header`."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from ekd_tf.data import image_header
from ekd_tf.data.image_header import EXPECTED
from ekd_tf.data.image_header import OTHER
from ekd_tf.data.image_header import UNKNOWN
from ekd_tf.data.image_header import BatchClassifier
from ekd_tf.data.image_header import classify
from ekd_tf.data.image_header import exif_orientation


def encode(kind, mode="RGB", size=(20, 20), **options):
    width, height = size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


def exif(orientation, order="<", kind=3):
    """EXIF data of two tags, the second one the orientation."""
    value = struct.pack(order + ("Hxx" if kind == 3 else "I"), orientation)
    tags = struct.pack(order + "HHII", 0x0100, 4, 1, 20)
    tags += struct.pack(order + "HHI", 0x0112, kind, 1) + value
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    return b"Exif\0\0" + head + struct.pack(order + "H", 2) + tags + b"\0" * 4


@pytest.mark.parametrize(
    "data",
    [
        encode("JPEG"),
        encode("JPEG", "L"),
        encode("JPEG", progressive=True),
        encode("JPEG", exif=b"Exif\0\0" + b"\xff\xc0" * 40),
        encode("JPEG", exif=exif(1)),
        encode("PNG", exif=exif(1)),
        encode("JPEG") + b"\0" * 16,
        encode("PNG"),
        encode("PNG", "RGBA"),
        encode("PNG", "P"),
    ],
    ids=[
        "jpeg",
        "gray",
        "progressive",
        "exif",
        "upright",
        "upright png",
        "padded",
        "png",
        "rgba",
        "palette",
    ],
)
def test_expects_what_decode_jpeg_gives_that_size(data):
    assert classify(data, 20) == EXPECTED
    assert tf.io.decode_jpeg(data, channels=3).shape == (20, 20, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [(20, 16), (16, 20), (276, 276)])
def test_another_size_in_either_direction(kind, size):
    # 276 is 20 in its lower byte.
    assert classify(encode(kind, size=size), 20) == OTHER


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
        encode("BMP"),
        encode("GIF"),
        b"\xff\xd8" + b"\xff" * 30 + b"\xff\xd9",
    ],
    ids="empty text magic cmyk cut_jpeg cut_png webp bmp gif fill".split(),
)
def test_all_else_is_left_to_the_slow_way(data):
    assert classify(data, 20) == UNKNOWN


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_turned_image_is_left_to_the_slow_way(kind):
    for orientation in range(2, 9):
        assert classify(encode(kind, exif=exif(orientation)), 20) == UNKNOWN


def test_the_largest_plain_image(monkeypatch):
    monkeypatch.setattr(image_header, "LARGE_PIXELS", 16 * 20)
    assert classify(encode("PNG", size=(16, 20)), 20) == OTHER
    assert classify(encode("PNG", size=(17, 20)), 20) == UNKNOWN


def test_orientations_in_either_byte_order_and_size():
    for order in "<>":
        for orientation in range(1, 9):
            assert exif_orientation(exif(orientation, order)) == orientation
            assert exif_orientation(exif(orientation, order)[6:]) == orientation
        assert exif_orientation(exif(7, "<", kind=4)) == 7
        # Not one of the eight, cut before the tag, no EXIF data.
        for wrong in (exif(0, order), exif(9, order), exif(6, order)[:34], b"", b"II"):
            assert exif_orientation(wrong) == 1


GOOD = [
    encode("JPEG"),
    encode("JPEG", "L"),
    encode("JPEG", quality=30),
    encode("JPEG") + b"\0" * 16,
    encode("PNG"),
]
OTHERS = [encode("JPEG", size=(20, 16)), encode("PNG", size=(16, 20))]
BAD = [b"", encode("JPEG")[:-3], encode("JPEG", "CMYK"), encode("JPEG")[:40]]
BAD += [encode("JPEG", exif=exif(3)), encode("PNG", exif=exif(8)), encode("GIF")]


def test_a_batch_is_as_slow_as_its_slowest_image(monkeypatch):
    classify_batch = BatchClassifier(20)
    # Twice, so that headers are known; with one of them at a time, too.
    for count in (8, 8, 1):
        monkeypatch.setattr(image_header, "_HEADERS", count)
        assert classify_batch(GOOD) == EXPECTED
        for other in OTHERS:
            assert classify_batch([*GOOD, other, *GOOD]) == OTHER
            for bad in BAD:
                assert classify_batch([other, bad, *GOOD]) == UNKNOWN
        for data in [*GOOD, *OTHERS, *BAD]:
            assert classify_batch([data]) == classify(data, 20)


def test_headers_of_another_size_are_not_remembered():
    at_20, at_16 = BatchClassifier(20), BatchClassifier(16)
    small = encode("JPEG", size=(16, 16))
    for _ in range(2):
        assert (at_20([GOOD[0]]), at_20([small])) == (EXPECTED, OTHER)
        assert (at_16([GOOD[0]]), at_16([small])) == (OTHER, EXPECTED)


def test_images_of_one_encoder_are_understood_once(monkeypatch):
    calls = []

    def counted(data, size):
        calls.append(data)
        return classify(data, size)

    monkeypatch.setattr(image_header, "classify", counted)
    classify_batch = BatchClassifier(20)
    for _ in range(3):
        assert classify_batch(GOOD[:3] * 4) == EXPECTED
    assert calls == GOOD[:3]
    for k in range(20):
        # A comment makes every header another; few are kept.
        classify_batch([encode("JPEG", comment=b"%d" % k)])
    assert len(classify_batch._expected) == image_header._HEADERS
