import numpy as np
import pytest

from ekd_tf.data import InMemoryFaces
from ekd_tf.data import Source
from ekd_tf.data import SyntheticFaces


class Counting(SyntheticFaces):
    """Counts how often each image is drawn."""

    def __init__(self):
        super().__init__(identities=4, images_per_identity=3, size=32)
        self.drawn = np.zeros(12, int)

    def read(self, indices):
        np.add.at(self.drawn, indices, 1)
        return super().read(indices)


def test_gives_the_pixels_of_the_source_in_any_order():
    source = Counting()
    kept = InMemoryFaces(source)
    for indices in ([3, 1], [1, 1, 11], [0], [3, 2, 1, 0]):
        expected = SyntheticFaces(4, 3, 32).read(np.array(indices))
        np.testing.assert_array_equal(kept.read(indices), expected)


def test_draws_each_image_once():
    source = Counting()
    kept = InMemoryFaces(source)
    for indices in ([3, 1, 3], [1, 4], [3, 4, 1]):
        kept.read(np.array(indices))
    assert source.drawn.tolist() == [0, 1, 0, 1, 1] + [0] * 7


def test_refuses_encoded_images():
    class Encoded(Source):
        name = "a folder"
        encoded = True
        fingerprint = ""
        labels = np.zeros(1, np.int32)

        def read(self, indices):
            return [b""]

        def describe(self, index):
            return ""

    with pytest.raises(ValueError, match="encoded images: a folder"):
        InMemoryFaces(Encoded())
