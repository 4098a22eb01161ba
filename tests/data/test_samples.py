"""Tests for `ekd_tf.data.readable`."""

import numpy as np
from PIL import Image

from ekd_tf.data import FolderFaces
from ekd_tf.data import SyntheticFaces
from ekd_tf.data import sample_faces
from ekd_tf.data import sample_images
from ekd_tf.data.readable import first_image_size


def drawn(identities, images):
    return SyntheticFaces(identities, images, 32)


def test_images_are_spread_over_the_source():
    source = drawn(identities=5, images=2)
    images = sample_images(source, 32, count=5)
    np.testing.assert_array_equal(images, source.read(np.array([0, 2, 4, 6, 9])))
    assert len(sample_images(source, 32, count=50)) == 10


def test_the_first_image_tells_its_size_unless_it_is_damaged(tmp_path):
    assert first_image_size(drawn(identities=2, images=2)) == (32, 32)
    path = tmp_path / "p" / "0.png"
    for folder in ("p", "q"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (30, 20)).save(tmp_path / folder / "0.png")
    assert first_image_size(FolderFaces(tmp_path)) == (30, 20)
    path.write_bytes(b"no image")
    assert first_image_size(FolderFaces(tmp_path)) is None


def test_faces_are_several_of_each_of_few_identities():
    source = drawn(identities=5, images=4)
    faces, labels = sample_faces(source, 32, count=6, images_per_identity=3)
    # Two identities, the first and the last, three images of each.
    np.testing.assert_array_equal(labels, [0, 0, 0, 4, 4, 4])
    expected = source.read(np.array([0, 1, 2, 16, 17, 18]))
    np.testing.assert_array_equal(faces, expected)


def test_faces_of_a_shuffled_source_are_grouped():
    source = drawn(identities=3, images=2)
    order = np.array([5, 0, 3, 1, 4, 2])
    source.labels = source.labels[order]
    _, labels = sample_faces(source, 32, count=6, images_per_identity=2)
    np.testing.assert_array_equal(labels, [0, 0, 1, 1, 2, 2])


def test_few_images_or_identities_are_made_up_for_by_more_of_the_other():
    for source, count, per_identity, expected in (
        (drawn(6, 2), 8, 4, [0, 0, 1, 1, 3, 3, 5, 5]),
        (drawn(2, 9), 10, 2, [0] * 8 + [1] * 2),
        (drawn(3, 2), 50, 8, [0, 0, 1, 1, 2, 2]),
    ):
        _, labels = sample_faces(source, 32, count, per_identity)
        np.testing.assert_array_equal(labels, expected)
