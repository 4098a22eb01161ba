"""Several sources as one, identities kept apart."""

import numpy as np
import pytest
import records

from ekd_tf.data import RecordIOFaces
from ekd_tf.data import SyntheticFaces
from ekd_tf.data.sources.joined import JoinedSources


@pytest.fixture
def parts(tmp_path):
    for name, labels in (("a", [0, 0, 1]), ("b", [0, 1, 1, 2])):
        images = [(label, f"{name}{k}".encode()) for k, label in enumerate(labels)]
        records.write(tmp_path / name, records.insightface(images))
    return [RecordIOFaces(tmp_path / name) for name in "ab"]


def test_images_follow_each_other_and_labels_are_offset(parts):
    joined = JoinedSources([*parts, parts[0]])
    assert len(joined) == 10
    np.testing.assert_array_equal(joined.labels, [0, 0, 1, 2, 3, 3, 4, 5, 5, 6])
    assert (joined.labels.dtype, joined.num_identities) == (np.int32, 7)
    assert joined.encoded
    order = [9, 0, 3, 2, 6, 3, 7]
    expected = [b"a2", b"a0", b"b0", b"a2", b"b3", b"b0", b"a0"]
    assert joined.read(np.array(order)) == expected
    assert joined.read([]) == []
    assert joined.name == f"{parts[0].name}+{parts[1].name}+{parts[0].name}"
    assert joined.describe(2) == parts[0].describe(2)
    assert joined.describe(3) == parts[1].describe(0)


def test_fingerprint_follows_the_parts_and_their_order(parts):
    prints = {
        JoinedSources(chosen).fingerprint
        for chosen in (parts, parts[::-1], parts[:1], parts[:1] * 2)
    }
    assert len(prints) == 4
    assert JoinedSources(parts).fingerprint in prints


def drawn(**arguments):
    return SyntheticFaces(2, 2, **arguments)


def test_drawn_faces_are_joined():
    first, second = drawn(size=32), drawn(size=32, seed=1)
    joined = JoinedSources([first, second])
    images = joined.read([5, 1])
    assert images.dtype == np.uint8 and not joined.encoded
    np.testing.assert_array_equal(images[0], second.read([1])[0])
    np.testing.assert_array_equal(images[1], first.read([1])[0])


def test_what_does_not_fit_together_is_refused(parts):
    words = r"files with files. Received: .*train.rec \(files\), synthetic \(\(32, 32"
    with pytest.raises(ValueError, match=words):
        JoinedSources([parts[0], drawn(size=32)])
    words = r"synthetic \(\(32, 32, 3\)\), synthetic \(\(48, 48, 3\)\)"
    with pytest.raises(ValueError, match=words):
        JoinedSources([drawn(size=32), drawn(size=48)])
