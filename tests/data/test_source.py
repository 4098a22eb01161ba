import hashlib

import numpy as np
import pytest
from pictures import Files
from refusals import refused

from ekd_tf.data import JoinedSources
from ekd_tf.data import SyntheticFaces
from ekd_tf.data import source


class Numbers(Files):
    """Image i is the text of i; labels are given."""

    def __init__(self, labels, name="numbers"):
        super().__init__([b"%d" % index for index in range(len(labels))], labels)
        self.name = name
        self.fingerprint = hashlib.sha256(self.labels.tobytes()).hexdigest()


@pytest.fixture
def numbers():
    return Numbers([3, 0, 1, 1, 2, 0, 3, 3])


def test_selected_identities_are_relabelled_in_the_order_given(numbers):
    subset = source.Subset(numbers, [3, 1])
    # Images 0, 2, 3, 6, 7 belong to identities 3, 1, 1, 3, 3.
    np.testing.assert_array_equal(subset.labels, [0, 1, 1, 0, 0])
    assert subset.labels.dtype == np.int32
    assert subset.num_identities == 2
    assert subset.encoded is True
    assert subset.name == "numbers (2 identities)"
    assert subset.read(np.array([4, 0, 4])) == [b"7", b"0", b"7"]
    assert subset.describe(3) == "6.jpg"


def test_knows_where_its_images_come_from(numbers):
    whole, positions, identities = numbers.origin()
    assert whole is numbers
    np.testing.assert_array_equal(positions, np.arange(8))
    np.testing.assert_array_equal(identities, np.arange(4))
    # Of identities 3, 1, 0 the last two: images 1, 2, 3, 5 of the whole.
    subset = source.Subset(source.Subset(numbers, [3, 1, 0]), [2, 1])
    whole, positions, identities = subset.origin()
    assert whole is numbers
    np.testing.assert_array_equal(positions, [1, 2, 3, 5])
    np.testing.assert_array_equal(identities, [0, 1])
    np.testing.assert_array_equal(numbers.labels[positions], identities[subset.labels])


def test_fingerprint_changes_with_the_choice_and_with_the_source(numbers):
    other = Numbers([3, 0, 1, 1, 2, 0, 3, 2])
    chosen = (numbers, [0, 1]), (numbers, [1, 0]), (numbers, [0, 2]), (other, [0, 1])
    prints = {source.Subset(*choice).fingerprint for choice in chosen}
    assert len({*prints, numbers.fingerprint}) == 5
    assert source.Subset(numbers, [0, 1]).fingerprint in prints


def test_rejects_impossible_identities(numbers):
    for identities, words in (
        ([], r"`len\(identities\)` must be in \[1, inf\)"),
        ([1, 1], "`identities` must be distinct"),
        ([4], r"`identities` must be in \[0, 4\). Received: identities=4"),
        ([-1, 0], r"`identities` must be in \[0, 4\). Received: identities=-1"),
    ):
        refused(words, source.Subset, numbers, identities)


def test_split_shares_no_identity_and_loses_no_image(numbers):
    # Image i has identity i % 10.
    train, heldout = source.split_identities(Numbers(np.arange(30) % 10), 3, seed=1)
    assert (train.num_identities, heldout.num_identities) == (7, 3)
    kept, held = ([*map(int, part.read(range(len(part))))] for part in (train, heldout))
    assert sorted(kept + held) == list(range(30))
    assert not {image % 10 for image in held} & {image % 10 for image in kept}
    assert np.unique(heldout.labels).tolist() == [0, 1, 2]
    # Two identities are left on either side.
    words = r"`holdout` must leave at least 2 .* in \[2, 2\] for numbers with 4"
    for holdout in (-1, 0, 1, 3, 4, 9):
        refused(words, source.split_identities, numbers, holdout)
    source.split_identities(numbers, 2)


def test_images_follow_each_other_and_labels_are_offset():
    a, b = Numbers([0, 0, 1], "a"), Numbers([0, 1, 1, 2], "b")
    joined = JoinedSources([a, b, a])
    assert (joined.name, len(joined), joined.num_identities) == ("a+b+a", 10, 7)
    np.testing.assert_array_equal(joined.labels, [0, 0, 1, 2, 3, 3, 4, 5, 5, 6])
    assert joined.labels.dtype == np.int32 and joined.encoded
    images = joined.read(np.array([9, 0, 3, 2, 6, 3, 7]))
    assert images == [b"2", b"0", b"0", b"2", b"3", b"0", b"0"]
    assert joined.read([]) == []
    assert (joined.describe(2), joined.describe(3)) == ("2.jpg", "0.jpg")
    assert joined.identity_names()[1:3] == ["0:1", "1:0"]
    parts = (a, b), (b, a), (a,), (a, a)
    assert len({JoinedSources(list(chosen)).fingerprint for chosen in parts}) == 4


def test_drawn_faces_are_joined(numbers):
    first, second = SyntheticFaces(2, 2, 32), SyntheticFaces(2, 2, 32, seed=1)
    images = JoinedSources([first, second]).read([5, 1])
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images[0], second.read([1])[0])
    np.testing.assert_array_equal(images[1], first.read([1])[0])
    refused(r"numbers \(files\), synthetic:\S+ \(\(32", JoinedSources, [numbers, first])
    refused(r"size=48 \(\(48, 48", JoinedSources, [first, SyntheticFaces(2, 2, 48)])
