"""The orientation that a SavedModel's own reader applies is the one Pillow reads."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from ekd_tf.data.image_pixels import decode_image
from ekd_tf.data.image_pixels import read_image
from ekd_tf.export.upright import upright

ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def read():
    spec = tf.TensorSpec((), tf.string)
    return tf.function(
        lambda data: upright(decode_image(data), data), input_signature=[spec]
    )


def image_with(orientation, form, endian="<", comment=b""):
    """Returns a file of 6x9 pixels, no two rows or columns alike."""
    pixels = np.random.default_rng(3).integers(0, 256, (6, 9, 3), np.uint8)
    exif = Image.Exif()
    exif.endian = endian
    # Other entries on both sides of it: 0x0100 is a width, 0x0132 a date.
    exif[0x0100], exif[0x0132] = 9, "2026:01:01 00:00:00"
    exif[ORIENTATION] = orientation
    file = io.BytesIO()
    options = {"quality": 95, "comment": comment} if form == "JPEG" else {}
    Image.fromarray(pixels).save(file, form, exif=exif.tobytes(), **options)
    return file.getvalue()


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_turns_all_eight_orientations_as_pillow_does(read, form, endian):
    shapes = set()
    for orientation in range(1, 9):
        data = image_with(orientation, form, endian)
        pixels = read(data).numpy()
        shapes.add(pixels.shape)
        np.testing.assert_array_equal(pixels, read_image(data), f"{orientation}")
    assert shapes == {(6, 9, 3), (9, 6, 3)}


def test_finds_it_behind_other_segments_and_fill_bytes(read):
    data = image_with(6, "JPEG", comment=b"\xff" * 40)
    start = data.index(b"\xff\xe1")
    app2 = b"\xff\xe2\x00\x06\xff\xe1ab"
    data = data[:start] + app2 + b"\xff\xff" + data[start:]
    np.testing.assert_array_equal(read(data), read_image(data))
    assert read(data).shape == (9, 6, 3)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "GIF"])
def test_leaves_an_image_without_it(read, form):
    file = io.BytesIO()
    Image.new("RGB", (4, 3), (255, 255, 255)).save(file, form)
    np.testing.assert_array_equal(read(file.getvalue()), np.full((3, 4, 3), 255))


def test_damaged_exif_data_turn_nothing_and_end(read, rng):
    data = image_with(8, "JPEG")
    start, end = data.index(b"Exif"), data.index(b"\xff\xdb")
    turned = 0
    for _ in range(200):
        damaged = bytearray(data)
        for at in rng.integers(start, end, 3):
            damaged[at] = rng.integers(256)
        turned += read(bytes(damaged)).shape == (9, 6, 3)
    assert 0 < turned < 200
    # An orientation that does not exist.
    assert read(image_with(9, "JPEG")).shape == (6, 9, 3)


def test_reads_an_orientation_of_four_bytes_and_passes_over_empty_data(read):
    for endian, code in (("<", "<HHII"), (">", ">HHII")):
        entry = struct.pack(code, ORIENTATION, 4, 1, 6)
        head = b"II*\0" if endian == "<" else b"MM\0*"
        directory = struct.pack(f"{endian}IH", 8, 1) + entry + bytes(4)
        exif = b"Exif\0\0" + head + directory
        segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
        empty = b"\xff\xe1\0\x08Exif\0\0"
        plain = image_with(1, "JPEG")
        start = plain.index(b"\xff\xe1")
        end = start + 2 + int.from_bytes(plain[start + 2 : start + 4], "big")
        data = plain[:start] + empty + segment + plain[end:]
        assert read(data).shape == (9, 6, 3)


def test_refuses_webp_whose_orientation_it_does_not_read(read):
    file = io.BytesIO()
    Image.new("RGB", (9, 6)).save(file, "WEBP")
    with pytest.raises(tf.errors.InvalidArgumentError):
        read(file.getvalue())
