import numpy as np
import pytest
from pictures import Files
from pictures import encode
from pictures import face
from pictures import pixels
from refusals import refused

from ekd_tf import data
from ekd_tf.data.readable import first_image_size
from ekd_tf.data.templates import TemplatePairs
from ekd_tf.data.templates import TemplateSubjects
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.data.unreadable import UnreadableError
from ekd_tf.data.unreadable import explain


def files(*bad, encoded=True):
    """Eight images of four identities, of which those of `bad` are text or gone."""
    images = [face(np.random.default_rng(k)) for k in range(8)]
    images = [encode(image) if encoded else pixels(image) for image in images]
    for index in bad:
        images[index] = b"text" if index < 6 else None
    return Files(images, np.repeat(np.arange(4), 2))


TEXT = "not an image in a format that is read"


def test_unreadable_images_are_left_out_counted_and_named():
    unreadable = Unreadable(2)
    found = data.readable_images(files(1, 6), unreadable)
    assert found.left_out == (f"1.jpg: {TEXT}", "6.jpg: No such file or directory")
    assert unreadable.lines == list(found.left_out)
    np.testing.assert_array_equal(found.labels, [0, 1, 1, 2, 2, 3])
    assert [found.describe(k) for k in (0, 1, 5)] == ["0.jpg", "2.jpg", "7.jpg"]
    assert found.fingerprint != "files"
    np.testing.assert_array_equal(found.origin()[1], [0, 2, 3, 4, 5, 7])


def test_a_whole_source_is_given_back_itself():
    # Pixels are asked for only where some may be unreadable.
    for source in (files(), files(7, encoded=False)):
        assert data.readable_images(source) is source
    found = data.readable_images(source, Unreadable(1))
    assert found.left_out == ("7.jpg: No such file or directory",)


def test_one_more_than_allowed_stops():
    refused("1.jpg: not an", data.readable_images, files(1), error=UnreadableError)
    with pytest.raises(UnreadableError) as error:
        data.readable_images(files(1, 3), Unreadable(1))
    assert explain(error.value, "mend them") == (
        "cannot decode 2 images, of which 1 may be unreadable; mend them:\n"
        f"  1.jpg: {TEXT}\n  3.jpg: {TEXT}"
    )
    assert explain(ValueError("x"), "mend it") == "x"
    error = UnreadableError([f"{k}.jpg: is empty" for k in range(50)], 49)
    assert str(error).endswith("  19.jpg: is empty\n  and 30 more")
    refused("files: none", data.readable_indices, files(0, 1), [0, 1], Unreadable(9))


def test_little_is_read_behind_the_image_that_ends_it():
    class Counted(Files):
        reads = 0

        def read(self, indices):
            self.reads += len(indices)
            return super().read(indices)

    source = Counted([b"text"] * 3000, np.zeros(3000, int))
    refused("cannot decode 0.jpg", data.readable_images, source, error=UnreadableError)
    assert source.reads <= 256
    with pytest.raises(UnreadableError) as error:
        data.readable_images(source, Unreadable(299))
    assert [line.split(".")[0] for line in error.value.lines] == [*map(str, range(300))]


def test_an_image_counts_and_is_said_once_whoever_reads_it(warnings_logged):
    unreadable = Unreadable(2)
    assert unreadable.count("a.jpg", "is empty") == "a.jpg: is empty"
    assert unreadable.count("a.jpg", "cannot be read") == "a.jpg: is empty"
    unreadable.count("b.jpg", "is text")
    assert unreadable.lines == ["a.jpg: is empty", "b.jpg: is text"]
    assert warnings_logged == [f"unreadable image {line}" for line in unreadable.lines]


def test_a_pair_goes_with_either_image():
    pairs = data.PairSet("p", files(3, 4), np.array([True, False, True, False]))
    found = data.readable_pairs(pairs, Unreadable(2))
    np.testing.assert_array_equal(found.issame, [True, False])
    described = [found.images.describe(k) for k in range(4)]
    assert described == ["0.jpg", "1.jpg", "6.jpg", "7.jpg"]
    assert len(found.images.left_out) == 2


def test_a_template_without_another_image_leaves_all_lists():
    columns = np.array([1, 1, 2, 2, 3, 3, 4, 5])
    subjects = TemplateSubjects(np.array([1, 4]), np.array([7, 8]))
    same = np.array([True, False, True])
    pairs = TemplatePairs(np.array([1, 1, 4]), np.array([2, 4, 5]), same)
    score, images = np.ones(8, np.float32), files(0, 6)
    templates = data.TemplateSet(
        "t", images, columns, columns + 10, score, pairs, {"g": subjects}, subjects
    )
    found = data.readable_templates(templates, Unreadable(2))
    np.testing.assert_array_equal(found.template, [1, 2, 2, 3, 3, 5])
    np.testing.assert_array_equal(found.pairs.first, [1])
    np.testing.assert_array_equal(found.galleries["g"].template, [1])
    np.testing.assert_array_equal(found.probes.subject, [7])
    assert len(found.images) == len(found.media) == 6


def drawn(identities, images):
    return data.SyntheticFaces(identities, images, 32)


def test_images_are_spread_over_the_source():
    source = drawn(identities=5, images=2)
    images = data.sample_images(source, 32, count=5)
    np.testing.assert_array_equal(images, source.read(np.array([0, 2, 4, 6, 9])))
    assert len(data.sample_images(source, 32, count=50)) == 10


def test_the_first_image_tells_its_size_unless_it_is_damaged():
    assert first_image_size(drawn(identities=2, images=2)) == (32, 32)
    assert first_image_size(files()) == (16, 16)
    assert first_image_size(files(0)) is None


def test_faces_are_several_of_each_of_few_identities():
    shuffled = drawn(3, 2)
    shuffled.labels = shuffled.labels[[5, 0, 3, 1, 4, 2]]
    for source, count, expected in (
        # Few images or identities are made up for by more of the other.
        (drawn(6, 2), 8, [0, 0, 1, 1, 3, 3, 5, 5]),
        (drawn(2, 18), 20, [0] * 16 + [1] * 4),
        (drawn(3, 2), 50, [0, 0, 1, 1, 2, 2]),
        (shuffled, 6, [0, 0, 1, 1, 2, 2]),
        # Two identities, the first and the last, eight images of each.
        (drawn(5, 9), 16, [0] * 8 + [4] * 8),
    ):
        faces, labels = data.sample_faces(source, 32, count)
        np.testing.assert_array_equal(labels, expected)
    images = source.read(np.array([*range(8), *range(36, 44)]))
    np.testing.assert_array_equal(faces, images)


def test_samples_leave_unreadable_images_out():
    assert len(data.sample_images(files(1), 16, 8, Unreadable(1))) == 7
    faces, labels = data.sample_faces(files(1), 16, 8, unreadable=Unreadable(1))
    assert len(faces) == 7
    np.testing.assert_array_equal(labels, [0, 1, 1, 2, 2, 3, 3])
    refused(None, data.sample_images, files(1), 16, 8, error=UnreadableError)
