import tracemalloc

import numpy as np
import pytest
from pairwise import all_pairs
from pairwise import with_identities
from refusals import refused
from toys import people
from toys import unit

from ekd_tf.evaluation.allpairs import PairBlocks
from ekd_tf.evaluation.allpairs import all_pair_scores
from ekd_tf.evaluation.allpairs import all_pairs_roc
from ekd_tf.evaluation.allpairs import count_pairs
from ekd_tf.evaluation.allpairs import draw_pairs
from ekd_tf.evaluation.allpairs import labelled_intervals
from ekd_tf.metrics import identity_intervals


def test_scores_computed_by_hand():
    # Directions 0, 90, 60 and 180 degrees; the lengths do not matter.
    embeddings = np.array([[2.0, 0.0], [0.0, 1.0], [0.5, 0.75**0.5], [-3.0, 0.0]])
    positive, negative = all_pair_scores(embeddings, np.array([7, 4, 7, 4]))
    np.testing.assert_allclose(np.sort(positive), [0.0, 0.5], atol=1e-7)
    expected = [-1.0, -0.5, 0.0, 0.75**0.5]
    np.testing.assert_allclose(np.sort(negative), expected, atol=1e-7)
    assert positive.dtype == negative.dtype == np.float32


@pytest.mark.parametrize(
    ("block_size", "identities"), [(1, 6), (7, 1), (7, 6), (29, 30), (99, 6)]
)
def test_blocks_hold_every_pair_once(rng, block_size, identities):
    embeddings = rng.normal(size=(30, 5))
    labels = rng.permutation(np.arange(30) % identities)
    found = {True: {}, False: {}}
    for block in PairBlocks(embeddings, labels, block_size):
        masks = {True: block.positive, False: block.negative}
        if block.positive is None:
            masks = {False: np.ones(block.cosine.shape, bool)}
        for kind, mask in masks.items():
            for r, c in np.argwhere(mask):
                pair = tuple(sorted((block.rows[r], block.columns[c])))
                assert pair not in found[kind]
                found[kind][pair] = block.cosine[r, c]
    pairs = all_pairs(unit(embeddings), labels)
    expected = {True: {}, False: {}}
    for i, j, same, cosine in zip(pairs.left, pairs.right, pairs.same, pairs.cosine):
        expected[same][i, j] = cosine
    for kind in expected:
        assert found[kind] == pytest.approx(expected[kind], abs=1e-6)


def test_memory_does_not_grow_with_the_pairs(rng):
    # Kept scores of 1,000 images would take 2 MB, of 4,000 images 32 MB.
    peaks = []
    for count in (1000, 4000):
        embeddings = rng.normal(size=(count, 8)).astype(np.float32)
        tracemalloc.start()
        all_pairs_roc(embeddings, np.arange(count) // 2, (0.01,))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 5e6


def test_counts_by_hand():
    for labels, expected in (
        ([0, 0, 0, 5, 5], (4, 6)),
        ([1, 2, 3], (0, 3)),
        ([9, 9], (1, 0)),
        ([3], (0, 0)),
    ):
        assert count_pairs(labels) == expected
        scores = all_pair_scores(np.ones((len(labels), 2)), labels)
        assert tuple(kind.size for kind in scores) == expected


def test_drawn_pairs_keep_the_rules(rng):
    for seed in range(8):
        labels = rng.integers(0, rng.integers(2, 12), rng.integers(20, 60))
        each = int(rng.integers(1, min(count_pairs(labels)) + 1))
        left, right, same = draw_pairs(labels, each, seed)
        # Both kinds alternate: contiguous folds are balanced.
        np.testing.assert_array_equal(same, np.arange(2 * each) % 2 == 0)
        np.testing.assert_array_equal(labels[left] == labels[right], same)
        assert (left != right).all()
        unordered = {frozenset(pair) for pair in zip(left.tolist(), right.tolist())}
        assert len(unordered) == 2 * each
        again = draw_pairs(labels, each, seed)
        np.testing.assert_array_equal(again, (left, right, same))


def test_negatives_are_uniform_over_pairs():
    # Identities of 1, 2 and 5 images: 2 + 5 + 10 = 17 negative pairs, each with a
    # chance of 1/17; 17 * 100 draws leave a standard deviation of 10 per pair.
    labels = np.array([0, 1, 1, 2, 2, 2, 2, 2])
    counts = np.zeros((8, 8), int)
    for seed in range(17 * 100):
        left, right, _ = draw_pairs(labels, 1, seed)
        counts[min(left[1], right[1]), max(left[1], right[1])] += 1
    drawn = counts[counts > 0]
    assert drawn.size == 17
    assert abs(drawn - 100).max() < 5 * 10


def test_positives_are_spread_over_identities():
    # Pairs to be had: 45, 45, 3, 1 and 0. Ten pairs: one from each of four, two
    # more from the third, and of the four left each of the first two takes half.
    labels = np.repeat(np.arange(5), [10, 10, 3, 2, 1])
    left, _, same = draw_pairs(labels, 10, seed=0)
    counts = np.bincount(labels[left[same]], minlength=5)
    np.testing.assert_array_equal(counts, [3, 3, 3, 1, 0])


def test_rejects_wrong_labels():
    refused("one row per label.*3 rows, 2", all_pair_scores, np.ones((3, 2)), [0, 1])
    for labels in ([[0, 1]], [0.0, 1.0], ["a", "b"]):
        refused("integers in 1 dimension", all_pair_scores, np.ones((2, 2)), labels)


def test_intervals_are_those_of_all_pairs(rng):
    embeddings, labels = people(rng, 40, 5, 8)
    fprs, settings = (0.05, 0.01), {"replicates": 50, "seed": 3}
    points = all_pairs_roc(embeddings, labels, fprs).points(fprs)
    blocks = PairBlocks(embeddings, labels, block_size=16)
    found = labelled_intervals(blocks, labels, points, **settings)
    scores = with_identities(unit(embeddings), labels)
    expected = np.concatenate(identity_intervals(*scores, fprs, **settings))
    names = [f"tpr_at_fpr_{fpr}" for fpr in ("5e-2", "1e-2")]
    names += [name.replace("tpr", "threshold") for name in names]
    np.testing.assert_allclose([found[name] for name in names], expected, atol=1e-6)
