"""The orientation that a SavedModel's own reader applies is the one Pillow reads."""

import numpy as np
import pytest
import tensorflow as tf
from pictures import flat
from pictures import with_orientation

from ekd_tf.data.image_pixels import decode_image
from ekd_tf.data.image_pixels import read_image
from ekd_tf.export.upright import upright


@tf.function(input_signature=[tf.TensorSpec((), tf.string)])
def read(data):
    return upright(decode_image(data), data)


# No two rows or columns are alike.
UPRIGHT = np.random.default_rng(3).integers(0, 256, (6, 9, 3), np.uint8)


@pytest.mark.parametrize(("form", "endian"), [("JPEG", "<"), ("PNG", ">")])
def test_turns_all_eight_orientations_as_pillow_does(form, endian):
    for orientation in range(1, 9):
        data = with_orientation(UPRIGHT, orientation, form, endian=endian)
        pixels = read(data).numpy()
        assert pixels.shape == (6, 9, 3)
        np.testing.assert_array_equal(pixels, read_image(data), f"{orientation}")


def test_finds_it_behind_other_segments_and_fill_bytes():
    data = with_orientation(UPRIGHT, 6, "JPEG", comment=b"\xff" * 40)
    start = data.index(b"\xff\xe1")
    app2 = b"\xff\xe2\x00\x06\xff\xe1ab"
    empty = b"\xff\xe1\0\x08Exif\0\0"
    data = data[:start] + app2 + empty + b"\xff\xff" + data[start:]
    np.testing.assert_array_equal(read(data), read_image(data))
    assert read(data).shape == (6, 9, 3)


def test_leaves_an_image_without_it_and_refuses_formats_that_it_does_not_read():
    for form in ("JPEG", "PNG", "BMP", "GIF"):
        found = read(flat(255, 3, 4, form))
        np.testing.assert_array_equal(found, np.full((3, 4, 3), 255))
    with pytest.raises(tf.errors.InvalidArgumentError):
        read(flat(0, form="WEBP"))


def test_damaged_exif_data_turn_nothing_and_end(rng):
    data = with_orientation(UPRIGHT, 8, "JPEG")
    start, end = data.index(b"Exif"), data.index(b"\xff\xdb")
    whole = 0
    for _ in range(200):
        damaged = bytearray(data)
        for at in rng.integers(start, end, 3):
            damaged[at] = rng.integers(256)
        whole += read(bytes(damaged)).shape == (6, 9, 3)
    assert 0 < whole < 200
    # An orientation that does not exist.
    entry = b"\x12\x01\x03\0\x01\0\0\0"
    assert entry + b"\x08" in data
    assert read(data.replace(entry + b"\x08", entry + b"\x09")).shape == (9, 6, 3)
