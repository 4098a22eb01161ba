import concurrent.futures
import time
import warnings

import numpy as np
import tensorflow as tf
from pictures import STORED
from pictures import encode
from pictures import face
from pictures import kinds
from pictures import pixels
from pictures import with_orientation
from PIL import Image
from refusals import refused

from ekd_tf.data import image_pixels
from ekd_tf.data.image_pixels import decode_image
from ekd_tf.data.image_pixels import decode_plain
from ekd_tf.data.image_pixels import fit
from ekd_tf.data.image_pixels import open_image
from ekd_tf.data.image_pixels import orientation
from ekd_tf.data.image_pixels import plain_size
from ekd_tf.data.image_pixels import read_image
from ekd_tf.data.pairs import PairImages
from ekd_tf.data.pipeline import evaluation_batches


def test_every_kind_of_file_gives_what_it_shows(rng):
    for name, (data, expected) in kinds(rng).items():
        found = read_image(data)
        assert found.dtype == np.uint8, name
        np.testing.assert_array_equal(found, expected, err_msg=name)


def test_the_pipeline_and_tensorflow_decode_the_same(rng):
    square = face(rng, 12, 12)
    alpha = square.copy()
    alpha.putalpha(77)
    files = [encode(square, form) for form in ("JPEG", "PNG", "BMP")]
    files += [encode(square.convert("L"), form) for form in ("JPEG", "PNG")]
    files += [encode(alpha), encode(alpha, "BMP")]
    for data in files:
        np.testing.assert_array_equal(decode_image(data), read_image(data))
    # What TensorFlow does not read right is encoded anew, without loss.
    files += [with_orientation(pixels(square), k) for k in STORED]
    files += [with_orientation(pixels(square), k, "JPEG", quality=80) for k in STORED]
    files += [encode(square.convert("CMYK"), "JPEG")]
    files += [encode(square.convert("P"), form) for form in ("PNG", "BMP", "GIF")]
    deep = np.asarray(square.convert("L")) * np.uint16(256)
    files += [encode(Image.fromarray(deep), form) for form in ("PNG", "TIFF")]
    images = PairImages("set", files)
    (batch,) = evaluation_batches(images, range(len(files)), 12, len(files))
    np.testing.assert_array_equal(batch, [read_image(data) for data in files])


def test_plain_images_are_sized_for_tensorflow_and_all_else_is_not(rng, monkeypatch):
    image = face(rng, 20, 276)
    jpeg, png = encode(image, "JPEG"), encode(image)
    for data in (
        *(jpeg, png, jpeg + b"\0" * 16, encode(image.convert("L"), "JPEG")),
        encode(image, "JPEG", progressive=True),
        encode(image, "JPEG", comment=b"Exif"),
        *(encode(image.convert(mode)) for mode in ("RGBA", "P")),
        # Pillow takes a note in XMP for EXIF; TensorFlow, browsers and phones do not.
        encode(image, "JPEG", xmp=b'<x:xmpmeta><a tiff:Orientation="6"/></x:xmpmeta>'),
    ):
        assert plain_size(data) == read_image(data).shape[:2] == (20, 276)
        assert decode_plain(data).shape == (20, 276, 3)
    for data in (
        *(b"", b"hello", b"\xff\xd8\xff", b"\xff\xd8" + b"\xff" * 30 + b"\xff\xd9"),
        *(jpeg[:-3], jpeg[:40], png[:-3], encode(image.convert("CMYK"), "JPEG")),
        *(encode(image, form) for form in ("WEBP", "BMP", "GIF")),
        *(with_orientation(pixels(image), 3, form) for form in ("JPEG", "PNG")),
    ):
        assert plain_size(data) is None
    monkeypatch.setattr(image_pixels, "LARGE_PIXELS", 20 * 276 - 1)
    assert plain_size(png) is None


def test_the_limit_of_pillow_is_passed_over_and_kept(rng, monkeypatch):
    # Warnings are errors here, and twice the limit is one anyway.
    for limit in (250, 10):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        for form in ("PNG", "TIFF", "WEBP", "GIF", "JPEG"):
            assert read_image(encode(face(rng, 20, 20), form)).shape == (20, 20, 3)
        assert Image.MAX_IMAGE_PIXELS == limit


def test_large_images_are_averaged_where_they_are_made_small_anyway(rng, monkeypatch):
    monkeypatch.setattr(image_pixels, "LARGE_PIXELS", 20 * 20)
    image = face(rng, 40, 80)
    # 3,200 pixels are 8 times too many, so sides are divided by 3. A JPEG is halved as
    # it is decoded, which leaves twice too many, and halved again.
    for form, factor, error in (("PNG", 3, 0), ("JPEG", 4, 12)):
        data = with_orientation(pixels(image), 6, form)
        found = read_image(data, shrink=True).astype(int)
        assert np.abs(found - pixels(image.reduce(factor))).max() <= error
        assert read_image(data).shape == (40, 80, 3)


def test_jpegs_are_turned_upright_whatever_else_their_exif_data_say(rng):
    upright = pixels(face(rng, 24, 40))
    for turned in STORED:
        data = with_orientation(upright, turned, "JPEG", quality=98)
        assert np.abs(read_image(data).astype(int) - upright).mean() < 3
        with open_image(data) as image:
            assert orientation(image) == turned
    image = face(rng)
    plain = read_image(encode(image, "JPEG"))
    for exif in (b"", b"II*\0\xff\xff\xff\xff", b"what is this"):
        data = encode(image, "JPEG", exif=b"Exif\0\0" + exif)
        np.testing.assert_array_equal(read_image(data), plain)


def test_one_thread_at_a_time_asks_for_exif_data():
    # Two would leave the process without its warnings.
    inside, most = [], []

    class Slow:
        info = {}

        def getexif(self):
            inside.append(self)
            time.sleep(0.01)
            most.append(len(inside))
            inside.remove(self)
            return {0x0112: 6}

    before = warnings.filters[:]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = pool.map(orientation, [Slow() for _ in range(8)])
        assert [*found] == [6] * 8
    assert most == [1] * 8 and warnings.filters == before


def test_what_is_wrong_is_one_line(rng, monkeypatch):
    good = encode(face(rng, 40, 40), "JPEG")
    of_32_bits = [encode(Image.new(mode, (4, 4)), "TIFF") for mode in "IF"]
    for data, reason in (
        (b"no image", "^not an image in a format that is read$"),
        (good[: len(good) // 2], "(?i)^[^\n]*truncated[^\n]*$"),
        *((data, "its pixels have 32 bits and no") for data in of_32_bits),
    ):
        refused(reason, read_image, data)
    monkeypatch.setattr(image_pixels, "MOST_PIXELS", 1599)
    large = encode(face(rng, 40, 40), "WEBP")
    refused("it is 40x40: images of more than 1,599", read_image, large)


def test_what_tensorflow_does_not_read_right_is_an_error(rng):
    data = encode(face(rng, 64, 64), "JPEG")
    # TensorFlow alone would return the palette's positions as gray values.
    palette = encode(face(rng).convert("P"), "BMP")
    text = b"text that is long enough to hold a header of an image"
    for other in (b"", b"B", text, data[: len(data) // 2], data[:-8], palette):
        refused(None, decode_image, other, error=tf.errors.InvalidArgumentError)
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode_image(data), pixels(frames[0]))


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


def test_fit_stretches_images_and_batches_alike_and_leaves_the_right_size(rng):
    images = rng.integers(0, 256, (2, 5, 9, 3), dtype=np.uint8)
    batch = fit(images, 7)
    assert batch.shape == (2, 7, 7, 3)
    np.testing.assert_array_equal(batch[1], fit(images[1], 7))
    for call in (fit, tf.function(fit)):
        np.testing.assert_array_equal(call(batch, 7), batch)
