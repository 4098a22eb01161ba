"""Augmentations against values worked out by hand, NumPy and Pillow."""

import dataclasses
import io

import numpy as np
import pytest
import tensorflow as tf
from pictures import encode
from PIL import Image
from refusals import refused

from ekd_tf.data import augment

# Which draws a kind is made from.
AUGMENT_COLUMNS = {
    "crop": [0, 1, 2, 3],
    "brightness": [4],
    "contrast": [5],
    "saturation": [6],
    "occlusion": [7, 8, 9, 10, 11],
    "low_resolution": [12, 13],
    "jpeg": [14, 15],
}


def draws_of(rng, rows):
    return rng.random((rows, augment.NUM_DRAWS), dtype=np.float32)


def smooth(rng, rows, side=16):
    coarse = rng.integers(0, 256, (rows, 4, 4, 3)).astype(np.float32)
    return tf.cast(tf.image.resize(coarse, [side, side]), tf.uint8).numpy()


def test_crop_computed_by_hand():
    # Columns 0 10 20 30 40, one pixel off at the left and one at the right: the
    # centres 1..3 spread over five columns, 1 1.5 2 2.5 3. One and a half off the
    # top alone: rows 1.5..4 of 0 20 40 60 80, in steps of 5/8.
    columns = np.arange(0, 50, 10, dtype=np.uint8)
    image = np.broadcast_to(columns[None, :, None], (5, 5, 3))
    images = np.stack([image, 2 * image.transpose(1, 0, 2)])
    got = augment.crop(images, [[0, 1, 0, 1], [1.5, 0, 0, 0]])
    assert got.dtype == tf.uint8
    np.testing.assert_array_equal(got[0, 2, :, 0], [10, 15, 20, 25, 30])
    # 30, 42.5, 55, 67.5, 80; halves to the even number.
    np.testing.assert_array_equal(got[1, :, 3, 1], [30, 42, 55, 68, 80])


def test_color_computed_by_hand():
    # Two pixels, red 100 and gray 200; every image the same.
    images = np.uint8([[[[100, 0, 0], [200, 200, 200]]]] * 4)
    got = augment.adjust_color(
        images, [0.2, 0.0, 0.0, 0.0], [1.0, 0.5, 1.0, 2.0], [1.0, 1.0, 0.5, 1.0]
    )
    # Brightness: 255 * 0.2 = 51 on everything.
    np.testing.assert_array_equal(got[0], [[[151, 51, 51], [251, 251, 251]]])
    # Contrast 0.5: channel means 150, 100, 100.
    np.testing.assert_array_equal(got[1], [[[125, 50, 50], [175, 150, 150]]])
    # Saturation 0.5: luma of the red pixel 29.9, gray stays: 64.95 and 14.95.
    np.testing.assert_array_equal(got[2], [[[65, 15, 15], [200, 200, 200]]])
    # Contrast 2 cuts at 0 and 255: 50, -100, -100 and 250, 300, 300.
    np.testing.assert_array_equal(got[3], [[[50, 0, 0], [250, 255, 255]]])


def test_occlusion_covers_the_lower_face_and_its_fraction():
    images = np.full((3, 112, 112, 3), 7, np.uint8)
    colors = np.array([[200, 100, 50]] * 3, np.float32)
    got = augment.occlude_lower_face(images, [0.55, 0.65, 1.0], colors).numpy()
    covered = (got == [200, 100, 50]).all(-1)
    # Rows whose centre lies below: 0.55 * 112 = 61.6, from row 62 on; 72.8, from 73.
    for image, first in zip(covered[:2], (62, 73)):
        assert image[first:, 14:98].all() and image.sum() == (112 - first) * 84
    assert not covered[2].any()
    np.testing.assert_array_equal(got[~covered], 7)
    assert covered[0].mean() == pytest.approx(0.75 * 0.45, abs=0.005)


def test_lower_resolution_averages_and_interpolates():
    # Halves of 0 and 200 columns by pairs shrink to their means and stay; a fine
    # stripe is gone.
    stripes = np.tile(np.array([0, 200], np.uint8)[None, :, None], (8, 4, 3))
    got = augment.lower_resolution(stripes, 2).numpy()
    assert got.shape == (8, 8, 3) and got.dtype == np.uint8
    np.testing.assert_allclose(got, 100, atol=15)
    flat = np.full((8, 8, 3), 91, np.uint8)
    np.testing.assert_array_equal(augment.lower_resolution(flat, 3), flat)


def test_probabilities_choose_whole_images(rng):
    images, draws = smooth(rng, 4), np.zeros((4, augment.NUM_DRAWS), np.float32) + 0.5
    draws[:, [7, 12, 14]] = np.array([0.0, 0.29, 0.3, 0.99])[:, None]
    for kind in ("occlusion", "low_resolution", "jpeg"):
        got = augment.Augmentation(**{kind: 0.3})(images, draws).numpy()
        assert (got != images).any((1, 2, 3)).tolist() == [True, True, False, False]


def test_a_row_depends_on_its_own_draws(rng):
    images, draws = smooth(rng, 6), draws_of(rng, 6)
    every = augment.Augmentation(3, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5)
    whole = every(tf.constant(images), tf.constant(draws))
    assert whole.dtype == tf.uint8 and whole.shape == images.shape
    np.testing.assert_array_equal(every(images[4:], draws[4:]), whole[4:])


def test_nothing_is_on_by_default_and_impossible_values_are_refused(rng):
    assert not augment.Augmentation()
    assert list(dataclasses.asdict(augment.Augmentation())) == list(AUGMENT_COLUMNS)
    for values, words in (
        ({"crop": -1}, r"`--augment:crop` must be in \[0, inf\)"),
        ({"brightness": 1.5}, r"`--augment:brightness` must be in \[0, 1\]"),
        ({"jpeg": float("nan")}, r"`--augment:jpeg` must be in \[0, 1\]"),
    ):
        refused(words, augment.Augmentation, **values)
    words, crop = r"`--augment:crop` must be in .*4\]", augment.Augmentation(crop=5)
    refused(words, crop, smooth(rng, 3), draws_of(rng, 3))


def test_each_kind_works_alone_and_does_not_move_the_others(rng):
    images, draws = smooth(rng, 8), draws_of(rng, 8)
    for name, columns in AUGMENT_COLUMNS.items():
        alone = augment.Augmentation(**{name: 3 if name == "crop" else 0.8})
        assert alone
        changed = (alone(images, draws) != images).numpy().any((1, 2, 3))
        assert changed.sum() >= 3
        # The draws of other kinds do not reach it.
        others = rng.random(draws.shape, dtype=np.float32)
        others[:, columns] = draws[:, columns]
        np.testing.assert_array_equal(alone(images, others), alone(images, draws))


def test_jpeg_is_that_of_pillow(rng):
    image = smooth(rng, 1, 32)[0]
    for quality in (20, 80):
        data = encode(Image.fromarray(image), "JPEG", quality=quality)
        expected = np.asarray(Image.open(io.BytesIO(data)))
        assert np.abs(expected.astype(int) - image).max() > 0
        found = augment.compress_jpeg(image, quality)
        np.testing.assert_allclose(found, expected, atol=1)
