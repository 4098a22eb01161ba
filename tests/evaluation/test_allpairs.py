import numpy as np
import pytest

from ekd_tf.evaluation.allpairs import all_pair_scores
from ekd_tf.evaluation.allpairs import check_labels
from ekd_tf.evaluation.allpairs import count_pairs
from ekd_tf.evaluation.allpairs import pairs_at


def all_pair_scores_np(embeddings, labels):
    """Cosines of the pairs i < j as loops, and the rows of each."""
    scores, rows = {True: [], False: []}, {True: [], False: []}
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    for i in range(len(labels)):
        for j in range(i + 1, len(labels)):
            scores[labels[i] == labels[j]].append(unit[i] @ unit[j])
            rows[labels[i] == labels[j]].append((i, j))
    return scores, rows


def test_scores_computed_by_hand():
    # Directions 0, 90, 60 and 180 degrees; the lengths do not matter.
    embeddings = np.array([[2.0, 0.0], [0.0, 1.0], [0.5, 0.75**0.5], [-3.0, 0.0]])
    positive, negative = all_pair_scores(embeddings, np.array([7, 4, 7, 4]))
    np.testing.assert_allclose(positive, [0.5, 0.0], atol=1e-7)
    np.testing.assert_allclose(negative, [0.0, -1.0, 0.75**0.5, -0.5], atol=1e-7)
    assert positive.dtype == negative.dtype == np.float32


@pytest.mark.parametrize("block_size", [1, 7, 29, 30, 31, 1000])
def test_blocks_give_the_scores_of_loops_in_the_same_order(rng, block_size):
    embeddings = rng.normal(size=(30, 5))
    labels = rng.integers(0, 6, 30)
    expected, _ = all_pair_scores_np(embeddings, labels)
    positive, negative = all_pair_scores(embeddings, labels, block_size=block_size)
    np.testing.assert_allclose(positive, expected[True], atol=1e-6)
    np.testing.assert_allclose(negative, expected[False], atol=1e-6)


@pytest.mark.parametrize("same", [True, False])
def test_rows_are_found_again_from_positions(rng, same):
    labels = rng.integers(0, 5, 25)
    _, rows = all_pair_scores_np(rng.normal(size=(25, 3)), labels)
    found = pairs_at(labels, same, np.arange(len(rows[same])))
    np.testing.assert_array_equal(found, rows[same])


@pytest.mark.parametrize("position", [-1, 2])
def test_rejects_positions_without_a_pair(position):
    with pytest.raises(ValueError, match=r"`positions` must be in \[0, 1\]"):
        pairs_at(np.array([0, 0, 1, 1]), True, [position])


def test_no_positions_no_rows():
    assert pairs_at(np.array([0, 1]), True, []).shape == (0, 2)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, 0, 0, 5, 5], (4, 6)),
        ([1, 2, 3], (0, 3)),
        ([9, 9], (1, 0)),
        ([3], (0, 0)),
    ],
)
def test_counts_by_hand(labels, expected):
    assert count_pairs(labels) == expected
    sizes = tuple(s.size for s in all_pair_scores(np.ones((len(labels), 2)), labels))
    assert sizes == expected


def test_rejects_embeddings_without_direction():
    with pytest.raises(ValueError, match="zero norm.*rows 1$"):
        all_pair_scores([[1.0, 0.0], [0.0, 0.0]], [0, 1])


def test_rejects_lengths_that_differ():
    with pytest.raises(ValueError, match="`embeddings` must have one row.*3 rows, 2"):
        all_pair_scores(np.ones((3, 2)), [0, 1])


@pytest.mark.parametrize("labels", [[[0, 1]], [0.0, 1.0], ["a", "b"]])
def test_rejects_labels_that_are_not_a_list_of_integers(labels):
    with pytest.raises(ValueError, match="`labels` must be integers in 1 dimension"):
        check_labels(labels)


def test_rejects_empty_blocks():
    with pytest.raises(ValueError, match="`block_size` must be in"):
        all_pair_scores(np.ones((2, 2)), [0, 1], block_size=0)
