"""Mirroring chosen images of a batch."""

import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.data.augment import random_flip


def test_value_computed_by_hand():
    row = [[1, 2, 3], [4, 5, 6]]
    images = np.array([[row], [row]], dtype=np.uint8)
    flipped = random_flip(images, [False, True])
    # Pixels change places, the channels of a pixel do not.
    np.testing.assert_array_equal(flipped[0], [row])
    np.testing.assert_array_equal(flipped[1], [[[4, 5, 6], [1, 2, 3]]])


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (5, 4, 7, 3), (6, 8, 8, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_matches_numpy(rng, run_as, shape, dtype):
    images = rng.integers(0, 256, shape).astype(dtype)
    flips = rng.random(shape[0]) < 0.5
    expected = images.copy()
    expected[flips] = expected[flips][:, :, ::-1]
    flipped = run_as(random_flip)(tf.constant(images), tf.constant(flips))
    assert flipped.dtype == dtype
    np.testing.assert_array_equal(flipped, expected)


@pytest.mark.parametrize("all_rows", [False, True])
def test_none_or_all(rng, all_rows):
    images = rng.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    flipped = random_flip(images, np.full(3, all_rows))
    expected = images[:, :, ::-1] if all_rows else images
    np.testing.assert_array_equal(flipped, expected)


def test_twice_is_the_original(rng):
    images = rng.integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
    flips = [True, False, True, True]
    again = random_flip(random_flip(images, flips), flips)
    np.testing.assert_array_equal(again, images)


def test_keeps_the_static_shape_and_an_unknown_batch():
    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 4, 5, 3], tf.uint8),
            tf.TensorSpec([None], tf.bool),
        ]
    )
    def flip(images, flips):
        flipped = random_flip(images, flips)
        assert flipped.shape.as_list() == [None, 4, 5, 3]
        return flipped

    assert flip(np.zeros((0, 4, 5, 3), np.uint8), np.zeros(0, bool)).shape[0] == 0


def test_rejects_other_shapes():
    images = np.zeros((2, 4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="`images` must have 4 dimensions"):
        random_flip(images[0], [True])
    with pytest.raises(ValueError, match="`flips` must have 1 dimensions"):
        random_flip(images, [[True], [False]])
    with pytest.raises(ValueError, match="images=2, flips=3"):
        random_flip(images, [True] * 3)
