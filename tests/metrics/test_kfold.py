import numpy as np
import pytest
from refusals import refused
from sklearn.model_selection import KFold

from ekd_tf.metrics.kfold import best_accuracy
from ekd_tf.metrics.kfold import folds_of
from ekd_tf.metrics.kfold import kfold_accuracy
from ekd_tf.metrics.kfold import squared_distances


def test_value_computed_by_hand():
    # Folds of five and of four pairs. Fold 1 separates from 1.01 on, as a pair is
    # accepted when its distance is below the threshold, fold 2 from 2.01 on; each is
    # judged at the threshold of the other. Fold 1 at 2.01 takes its negative at 2 for a
    # positive (4 of 5 right); fold 2 at 1.01 misses its positive at 2 (3 of 4 right).
    distances = np.array([0.1, 0.1, 1.0, 2.0, 3.0, 0.1, 2.0, 3.0, 3.5])
    same = np.array([True] + [True, True, False, False] * 2)
    accuracy, thresholds, _ = kfold_accuracy(distances, same, folds=2)
    np.testing.assert_allclose(thresholds, [2.01, 1.01])
    np.testing.assert_array_equal(accuracy, [0.8, 0.75])


def test_folds_with_both_kinds_are_those_of_scikit_learn():
    # Six thousand pairs of LFW, 300 positive and 300 negative in turn; a list of
    # alternating kinds whose length is no multiple of the folds.
    for same in (np.tile(np.repeat([True, False], 300), 10), np.arange(67) % 2 == 0):
        fold, stratified = folds_of(same, 10)
        assert not stratified
        for k, (_, test) in enumerate(KFold(10, shuffle=False).split(same)):
            np.testing.assert_array_equal(np.flatnonzero(fold == k), test)


def test_kinds_are_cut_apart_where_a_fold_lacks_one():
    # All positives first; a fold of positives with a single negative; fewer positives
    # than folds; no kind with as many pairs as folds.
    for same, folds, positives, negatives in (
        (np.arange(23) < 11, 5, [3, 2, 2, 2, 2], [2, 2, 2, 3, 3]),
        (np.arange(12) % 11 < 5, 2, [3, 3], [3, 3]),
        (np.arange(20) < 2, 4, [1, 1, 0, 0], [4, 4, 5, 5]),
        (np.arange(4) < 2, 4, [1, 1, 0, 0], [0, 0, 1, 1]),
    ):
        fold, stratified = folds_of(same, folds)
        assert stratified
        assert np.bincount(fold[same], minlength=folds).tolist() == positives
        assert np.bincount(fold[~same], minlength=folds).tolist() == negatives
        # Each kind keeps the order given.
        assert (np.diff(fold[same]) >= 0).all() and (np.diff(fold[~same]) >= 0).all()


def test_distances_computed_by_hand():
    # Angles 0, 90 and 180 degrees between rows of various lengths.
    left = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    right = np.array([[5.0, 0.0], [0.0, 0.1], [0.0, -7.0]])
    np.testing.assert_allclose(squared_distances(left, right), [0, 2, 4], atol=1e-15)


def test_best_accuracy_tries_every_threshold(rng):
    for decimals in (1, 2, 3):
        distances = np.round(rng.uniform(0, 4, 30), decimals)
        same = rng.random(30) < rng.uniform(0.1, 0.9)
        thresholds = [*distances, *(distances + 1e-6)]
        expected = max(np.mean((distances < t) == same) for t in thresholds)
        assert best_accuracy(distances, same) == pytest.approx(expected)


def test_kinds_as_numbers_count_as_bools_and_folds_must_hold_a_pair(rng):
    distances, same = np.arange(10.0) / 3, np.arange(10) < 5
    assert best_accuracy(distances, same.astype(int)) == 1
    for_ints, for_bools = (kfold_accuracy(distances, x, 2)[0] for x in (same * 1, same))
    np.testing.assert_array_equal(for_ints, for_bools)
    for folds in (1, 11):
        refused(r"`folds` must be in \[2, 10\]", kfold_accuracy, distances, same, folds)
