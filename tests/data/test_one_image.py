"""Tests for `ekd_tf.data.image_pixels`."""

import io

import numpy as np
import pytest
import tensorflow as tf
from pictures import encode
from pictures import face
from pictures import pixels
from PIL import Image

from ekd_tf.data.image_pixels import as_plain
from ekd_tf.data.image_pixels import decodable
from ekd_tf.data.image_pixels import decode_image
from ekd_tf.data.image_pixels import fit


def test_formats_tensorflow_reads_give_the_pixels_of_pillow(rng):
    for mode, forms in (
        ("RGB", ("JPEG", "PNG", "BMP")),
        ("L", ("JPEG", "PNG")),
        ("RGBA", ("PNG", "BMP")),
    ):
        image = face(rng, 40, 24).convert(mode)
        if mode == "RGBA":
            image.putalpha(77)
        for form in forms:
            data = encode(image, form)
            expected = pixels(Image.open(io.BytesIO(data)))
            np.testing.assert_array_equal(decode_image(data), expected)


def test_what_tensorflow_does_not_read_right_is_an_error(rng):
    data = encode(face(rng, 64, 64), "JPEG")
    # TensorFlow alone would return the palette's positions as gray values.
    palette = encode(face(rng).convert("P"), "BMP")
    text = b"text that is long enough to hold a header of an image"
    for other in (b"", b"B", text, data[: len(data) // 2], data[:-8], palette):
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode_image(other)


def test_a_moving_gif_is_its_first_image():
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode_image(file.getvalue()), pixels(frames[0]))


def test_fit_averages_when_shrinking():
    # An antialiased triangle of radius 2 over rows 0 0 200 200 -> 2 rows: the first
    # output is centred between pixels 0 and 1, distances .5 .5 1.5 2.5, weights
    # .75 .75 .25 0 / 1.75, so 200 * .25 / 1.75 = 28.57, rounded 29; the other 171.
    column = np.array([0, 0, 200, 200], dtype=np.uint8)
    image = np.broadcast_to(column[:, None, None], (4, 4, 3))
    got = fit(image, 2)
    assert got.dtype == tf.uint8
    np.testing.assert_array_equal(got[:, 0, 0], [29, 171])
    np.testing.assert_array_equal(got[:, 1, 2], [29, 171])


def test_fit_stretches_images_and_batches_alike_and_leaves_the_right_size(rng, run_as):
    images = rng.integers(0, 256, (2, 5, 9, 3), dtype=np.uint8)
    batch = fit(images, 7)
    assert batch.shape == (2, 7, 7, 3)
    np.testing.assert_array_equal(batch[1], fit(images[1], 7))
    np.testing.assert_array_equal(run_as(lambda x: fit(x, 7))(batch), batch)


def test_what_only_pillow_decodes_is_encoded_anew_without_loss(rng):
    image = face(rng, 9, 13).convert("P")
    data = as_plain(encode(image, "BMP"))
    np.testing.assert_array_equal(decode_image(data), pixels(image))
    np.testing.assert_array_equal(Image.open(io.BytesIO(data)), pixels(image))
    png = encode(face(rng))
    assert as_plain(png) == png and decodable(png) is None
    assert decodable(b"no image") == "not an image in a format that is read"
