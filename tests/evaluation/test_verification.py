import json

import numpy as np
import pytest

from ekd_tf.evaluation.allpairs import all_pair_scores
from ekd_tf.evaluation.allpairs import count_pairs
from ekd_tf.evaluation.verification import draw_pairs
from ekd_tf.evaluation.verification import verify
from ekd_tf.metrics import auc
from ekd_tf.metrics import equal_error_rate
from ekd_tf.metrics import kfold_accuracy
from ekd_tf.metrics import squared_distances
from ekd_tf.metrics import tpr_at_fpr


def noisy_identities(rng, identities=40, images=6, noise=1.0, dim=32):
    """Embeddings around one centre per identity, in random order."""
    labels = rng.permutation(np.repeat(np.arange(identities) * 3 + 5, images))
    centres = rng.normal(size=(labels.max() + 1, dim))
    return centres[labels] + noise * rng.normal(size=(labels.size, dim)), labels


# --- drawing


@pytest.mark.parametrize("seed", range(20))
def test_drawn_pairs_keep_the_rules(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, rng.integers(2, 12), rng.integers(20, 60))
    available = count_pairs(labels)
    positives = int(rng.integers(0, available[0] + 1))
    negatives = int(rng.integers(0, available[1] + 1))
    left, right, same = draw_pairs(labels, positives, negatives, seed)
    assert (same.sum(), (~same).sum()) == (positives, negatives)
    np.testing.assert_array_equal(labels[left] == labels[right], same)
    assert (left != right).all()
    unordered = {frozenset(pair) for pair in zip(left.tolist(), right.tolist())}
    assert len(unordered) == positives + negatives


def test_every_pair_can_be_drawn():
    labels = np.array([4, 1, 4, 9, 1, 4])
    left, right, same = draw_pairs(labels, *count_pairs(labels), seed=3)
    assert len({frozenset(p) for p in zip(left.tolist(), right.tolist())}) == 15


def test_negatives_are_uniform_over_pairs():
    # Identities of 1, 2 and 5 images: 2 + 5 + 10 = 17 negative pairs, each with a
    # chance of 1/17; 17 * 400 draws leave a standard deviation of 20 per pair.
    labels = np.array([0, 1, 1, 2, 2, 2, 2, 2])
    counts = np.zeros((8, 8), int)
    for seed in range(17 * 400):
        left, right, _ = draw_pairs(labels, 0, 1, seed)
        counts[min(left[0], right[0]), max(left[0], right[0])] += 1
    drawn = counts[counts > 0]
    assert drawn.size == 17
    assert abs(drawn - 400).max() < 5 * 20


def test_positives_are_spread_over_identities():
    # Pairs to be had: 45, 45, 3, 1 and 0. Ten pairs: one from each of four, two
    # more from the third, and of the four left each of the first two takes half.
    labels = np.repeat(np.arange(5), [10, 10, 3, 2, 1])
    left, _, _ = draw_pairs(labels, 10, 0, seed=0)
    counts = np.bincount(labels[left], minlength=5)
    np.testing.assert_array_equal(counts, [3, 3, 3, 1, 0])


def test_fewer_positives_than_identities_come_from_different_ones():
    labels = np.repeat(np.arange(50), 4)
    left, _, _ = draw_pairs(labels, 30, 0, seed=0)
    assert np.unique(labels[left]).size == 30


def test_no_identity_is_favoured_where_not_all_can_give_a_pair():
    labels = np.repeat(np.arange(50), 4)
    first = [draw_pairs(labels, 10, 0, seed)[0] for seed in range(100)]
    # 1000 pairs over 50 identities: 20 each, standard deviation 4.
    assert abs(np.bincount(labels[np.concatenate(first)]) - 20).max() < 5 * 4


def test_images_of_an_identity_are_drawn_alike():
    # One pair of five images, ten possible: each must turn up over the seeds.
    labels = np.array([0] * 5 + [1])
    seen = set()
    for seed in range(200):
        left, right, _ = draw_pairs(labels, 1, 0, seed)
        seen.add(frozenset((int(left[0]), int(right[0]))))
    assert len(seen) == 10


def test_contiguous_folds_are_balanced():
    labels = np.repeat(np.arange(100), 5)
    _, _, same = draw_pairs(labels, 300, 300, seed=0)
    np.testing.assert_array_equal(same.reshape(10, 60).sum(axis=1), 30)


def test_unequal_kinds_are_mixed_in_proportion():
    labels = np.repeat(np.arange(100), 5)
    _, _, same = draw_pairs(labels, 100, 400, seed=0)
    np.testing.assert_array_equal(same.reshape(10, 50).sum(axis=1), 10)


def test_identities_are_not_drawn_in_the_order_of_their_labels():
    labels = np.repeat(np.arange(100), 3)
    left, _, same = draw_pairs(labels, 100, 100, seed=0)
    first_half = labels[left[same]][:50]
    assert 30 < first_half.mean() < 70


def test_same_seed_same_pairs_and_another_seed_others():
    labels = np.repeat(np.arange(30), 4)
    first, again, other = (draw_pairs(labels, 50, 50, seed) for seed in (1, 1, 2))
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a, b)
    assert (first[0] != other[0]).any()


def test_many_images_need_no_list_of_all_pairs():
    # 5e9 negative pairs would not fit into memory.
    labels = np.repeat(np.arange(10_000), 10)
    left, right, same = draw_pairs(labels, 3000, 3000, seed=0)
    np.testing.assert_array_equal(labels[left] == labels[right], same)


def test_rejects_more_pairs_than_there_are():
    labels = np.array([0, 0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"`positives` must be in \[0, 4\].*=5"):
        draw_pairs(labels, 5, 1, seed=0)
    with pytest.raises(ValueError, match=r"`negatives` must be in \[0, 6\].*=7"):
        draw_pairs(labels, 1, 7, seed=0)


# --- report


def test_report_agrees_with_the_metrics_it_is_made_of(rng):
    embeddings, labels = noisy_identities(rng)
    report = verify(embeddings, labels, fprs=(0.1, 0.01), pairs=200, seed=4)
    positive, negative = all_pair_scores(embeddings, labels)
    tpr, thresholds = tpr_at_fpr(positive, negative, (0.1, 0.01))
    assert report.tpr == {0.1: tpr[0], 0.01: tpr[1]}
    assert report.thresholds == {0.1: thresholds[0], 0.01: thresholds[1]}
    assert report.auc == auc(positive, negative)
    assert report.eer == equal_error_rate(positive, negative)
    assert (report.num_positive, report.num_negative) == (40 * 15, 240 * 239 / 2 - 600)
    left, right, same = draw_pairs(labels, 100, 100, seed=4)
    expected = kfold_accuracy(
        squared_distances(embeddings[left], embeddings[right]), same
    )
    assert (report.accuracy_mean, report.accuracy_std) == (expected.mean, expected.std)
    assert report.num_pairs == 200


def test_perfect_embeddings():
    # Four identities at right angles: every distance is 0 or 2, so the first
    # threshold that separates is 0.01, cosine 0.995.
    labels = np.repeat(np.arange(4), 10)
    report = verify(np.eye(4)[labels], labels, fprs=(0.1,), pairs=100)
    assert (report.accuracy_mean, report.accuracy_std) == (1.0, 0.0)
    assert report.tpr == {0.1: 1.0}
    assert report.thresholds == {0.1: 0.0}
    assert (report.auc, report.eer) == (1.0, 0.0)
    np.testing.assert_allclose(report.threshold, 0.995)


def test_collapsed_embeddings_look_bad():
    report = verify(np.ones((40, 3)), np.repeat(np.arange(8), 5), fprs=(0.1,))
    assert report.accuracy_mean == 0.5
    assert report.tpr == {0.1: 0.0}
    assert (report.auc, report.eer) == (0.5, 0.5)


def test_lengths_of_embeddings_do_not_matter(rng):
    embeddings, labels = noisy_identities(rng)
    lengths = rng.uniform(0.1, 10, (labels.size, 1))
    first = verify(embeddings, labels, pairs=200).to_dict()
    second = verify(embeddings * lengths, labels, pairs=200).to_dict()
    assert first.keys() == second.keys()
    for name in ("accuracy_mean", "threshold", "auc", "eer"):
        np.testing.assert_allclose(first[name], second[name], atol=1e-6)


def test_fprs_with_fewer_than_ten_negatives_are_not_measurable(rng):
    # 5 identities of 10: 50 * 49 / 2 - 5 * 45 = 1000 negative pairs.
    embeddings, labels = noisy_identities(rng, identities=5, images=10)
    report = verify(embeddings, labels, fprs=(0.1, 0.01, 0.0099, 1e-4, 0))
    assert report.num_negative == 1000
    measured = [tpr is not None for tpr in report.tpr.values()]
    assert measured == [True, True, False, False, False]
    assert [t is not None for t in report.thresholds.values()] == measured
    assert report.not_measurable[1] == (
        "TPR at FPR 1e-4 is not measurable: it takes 100000 negative pairs, and "
        "there are 1000"
    )
    assert "FPR 9.9e-3" in report.not_measurable[0]
    assert "any number" in report.not_measurable[2]


def test_small_sets_give_the_pairs_they_have(rng):
    embeddings, labels = noisy_identities(rng, identities=10, images=3)
    assert verify(embeddings, labels, pairs=6000).num_pairs == 2 * 30


def test_report_survives_json(rng):
    embeddings, labels = noisy_identities(rng)
    report = verify(embeddings, labels, fprs=(0.1, 1e-6), pairs=100).to_dict()
    assert json.loads(json.dumps(report)) == report
    assert report["tpr"].keys() == report["thresholds"].keys() == {"1e-1", "1e-6"}
    assert report["tpr"]["1e-6"] is None
    assert len(report["not_measurable"]) == 1


@pytest.mark.parametrize(
    ("labels", "identities"), [([0, 1, 2], 3), ([4, 4, 4], 1)], ids=["one each", "one"]
)
def test_rejects_labels_of_one_kind_of_pairs(labels, identities):
    with pytest.raises(
        ValueError, match=f"needs two identities.*3 images of {identities} identities"
    ):
        verify(np.ones((3, 2)), labels)


def test_rejects_fewer_pairs_than_folds():
    with pytest.raises(ValueError, match="folds=10, pairs=6000.*2 positive and 4 neg"):
        verify(np.ones((4, 2)), [0, 0, 1, 1])


def test_rejects_embeddings_that_are_not_finite(rng):
    embeddings, labels = noisy_identities(rng)
    embeddings[17, 3] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        verify(embeddings, labels)
