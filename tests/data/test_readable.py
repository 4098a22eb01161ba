"""Tests for `ekd_tf.data.readable`."""

import numpy as np
import pytest
from pictures import encode
from pictures import face

from ekd_tf.data import PairSet
from ekd_tf.data import SyntheticFaces
from ekd_tf.data import TemplateSet
from ekd_tf.data import readable_images
from ekd_tf.data import readable_indices
from ekd_tf.data import readable_pairs
from ekd_tf.data import readable_templates
from ekd_tf.data import sample_faces
from ekd_tf.data import sample_images
from ekd_tf.data.source import Source
from ekd_tf.data.templates import TemplatePairs
from ekd_tf.data.templates import TemplateSubjects
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.data.unreadable import UnreadableError


class Files(Source):
    """Eight images of four identities, of which those of `bad` are text or gone."""

    fingerprint = "files"

    def __init__(self, bad=(), encoded=True):
        rng = np.random.default_rng(0)
        self.name = "files"
        self.encoded = encoded
        self.labels = np.repeat(np.arange(4, dtype=np.int32), 2)
        self.num_identities = 4
        self.bad = bad
        self.images = [face(rng) for _ in range(8)]

    def read(self, indices):
        indices = np.asarray(indices).tolist()
        if {6, 7} & set(indices) & set(self.bad):
            raise ValueError(f"{self.describe(max(indices))}: is gone")
        if not self.encoded:
            return np.stack([self.images[index] for index in indices])
        return [
            b"text" if index in self.bad else encode(self.images[index])
            for index in indices
        ]

    def describe(self, index):
        return f"{index}.jpg"


TEXT = "not an image in a format that is read"


def test_unreadable_images_are_left_out_counted_and_named():
    unreadable = Unreadable(2)
    found = readable_images(Files([1, 6]), unreadable)
    assert found.left_out == (f"1.jpg: {TEXT}", "6.jpg: is gone")
    assert unreadable.lines == list(found.left_out)
    np.testing.assert_array_equal(found.labels, [0, 1, 1, 2, 2, 3])
    assert [found.describe(k) for k in (0, 1, 5)] == ["0.jpg", "2.jpg", "7.jpg"]
    assert found.fingerprint != "files"
    source, positions, _ = found.origin()
    np.testing.assert_array_equal(positions, [0, 2, 3, 4, 5, 7])


def test_a_whole_source_is_given_back_itself():
    source = Files()
    assert readable_images(source) is source
    drawn = SyntheticFaces(2, 2, 32)
    assert readable_images(drawn, Unreadable(1)) is drawn


def test_one_more_than_allowed_stops():
    with pytest.raises(UnreadableError, match="cannot decode 1.jpg: not an image"):
        readable_images(Files([1]))
    with pytest.raises(UnreadableError, match="2 images, of which 1 may be"):
        readable_images(Files([1, 3]), Unreadable(1))


def test_nothing_that_can_be_read_is_an_error():
    with pytest.raises(ValueError, match="files: none of its images can be read"):
        readable_indices(Files([0, 1]), [0, 1], Unreadable(9))


def test_pixels_that_cannot_be_made_are_left_out_where_some_may_be():
    source = Files([7], encoded=False)
    assert readable_images(source) is source
    assert readable_images(source, Unreadable(1)).left_out == ("7.jpg: is gone",)


def test_a_pair_goes_with_either_image():
    pairs = PairSet("p", Files([3, 4]), np.array([True, False, True, False]))
    found = readable_pairs(pairs, Unreadable(2))
    np.testing.assert_array_equal(found.issame, [True, False])
    assert [found.images.describe(k) for k in range(4)] == [
        f"{k}.jpg" for k in (0, 1, 6, 7)
    ]
    assert len(found.images.left_out) == 2


def test_a_template_without_another_image_leaves_all_lists():
    columns = np.array([1, 1, 2, 2, 3, 3, 4, 5])
    subjects = TemplateSubjects(np.array([1, 4]), np.array([7, 8]))
    templates = TemplateSet(
        name="t",
        images=Files([0, 6]),
        template=columns,
        media=columns + 10,
        score=np.ones(8, np.float32),
        pairs=TemplatePairs(
            np.array([1, 1, 4]), np.array([2, 4, 5]), np.array([True, False, True])
        ),
        galleries={"g": subjects},
        probes=subjects,
    )
    found = readable_templates(templates, Unreadable(2))
    np.testing.assert_array_equal(found.template, [1, 2, 2, 3, 3, 5])
    np.testing.assert_array_equal(found.pairs.first, [1])
    np.testing.assert_array_equal(found.galleries["g"].template, [1])
    np.testing.assert_array_equal(found.probes.subject, [7])
    assert len(found.images) == len(found.media) == 6


def test_samples_leave_them_out_too():
    assert len(sample_images(Files([1]), 16, 8, Unreadable(1))) == 7
    faces, labels = sample_faces(Files([1]), 16, 8, unreadable=Unreadable(1))
    assert len(faces) == 7
    np.testing.assert_array_equal(labels, [0, 1, 1, 2, 2, 3, 3])
    with pytest.raises(UnreadableError):
        sample_images(Files([1]), 16, 8)
