import dataclasses
import functools
import json

import numpy as np
import pytest
from refusals import refused
from toys import people
from toys import unit

from ekd_tf import metrics
from ekd_tf.evaluation import allpairs
from ekd_tf.evaluation import verification
from ekd_tf.evaluation.verification import figures_table
from ekd_tf.evaluation.verification import verify_embeddings
from ekd_tf.evaluation.verification import verify_pairs


def test_report_agrees_with_the_metrics_it_is_made_of(rng):
    embeddings, labels = people(rng, 40, 6, 32)
    report = verify_embeddings(embeddings, labels, fprs=(0.1, 0.01), seed=4)
    roc = metrics.ROC.of(*allpairs.all_pair_scores(embeddings, labels))
    points = roc.points((0.1, 0.01))
    assert report.tpr == {point.target_fpr: point.tpr for point in points}
    assert list(report.thresholds.values()) == [point.threshold for point in points]
    assert report.auc == pytest.approx(roc.auc(), abs=1e-4)
    assert report.eer == pytest.approx(roc.eer(), abs=1e-12)
    assert (report.num_positive, report.num_negative) == (40 * 15, 240 * 239 / 2 - 600)
    left, right, same = allpairs.draw_pairs(labels, 600, seed=4)
    distances = metrics.squared_distances(embeddings[left], embeddings[right])
    expected, _, _ = metrics.kfold_accuracy(distances, same)
    assert report.accuracy_mean == expected.mean()
    assert report.accuracy_std == expected.std()
    assert report.num_pairs == 1200


def test_perfect_and_collapsed_embeddings():
    # Four identities at right angles: every distance is 0 or 2, so the first
    # threshold that separates is 0.01, cosine 0.995.
    labels = np.repeat(np.arange(4), 10)
    report = verify_embeddings(np.eye(4)[labels], labels, fprs=(0.1,))
    assert (report.accuracy_mean, report.accuracy_std) == (1.0, 0.0)
    assert (report.tpr, report.thresholds) == ({0.1: 1.0}, {0.1: 0.0})
    assert (report.auc, report.eer) == (1.0, 0.0)
    np.testing.assert_allclose(report.threshold, 0.995)
    assert report.collapsed == ()
    # A collapsed model looks bad.
    report = verify_embeddings(np.ones((40, 3)), labels, fprs=(0.1,))
    (sentence,) = report.to_dict()["collapsed"]
    assert "collapsed: half of all negative pairs have a cosine of 1.0" in sentence
    assert (report.accuracy_mean, report.tpr) == (0.5, {0.1: 0.0})
    assert (report.auc, report.eer) == (0.5, 0.5)


def test_fprs_with_fewer_than_ten_negatives_are_not_measurable(rng):
    # 5 identities of 10: 50 * 49 / 2 - 5 * 45 = 1000 negative pairs.
    embeddings, labels = people(rng, 5, 10, 32)
    report = verify_embeddings(embeddings, labels, fprs=(0.1, 0.01, 0.0099, 1e-4, 0))
    assert report.num_negative == 1000
    measured = [True, True, False, False, False]
    for figures in (report.tpr, report.thresholds):
        assert [figure is not None for figure in figures.values()] == measured
    # 10 / 0.0099 = 1010.1.
    assert report.not_measurable == (
        "TPR at FPR 9.9e-3, 1e-4, 0 is not measurable: it takes 1011, 100000, more "
        "than any number of negative pairs, and there are 1000",
    )


def test_an_fpr_whose_pairs_are_too_many_to_resample_is_named(rng, monkeypatch):
    embeddings, labels = people(rng, 10, 10, 32)
    # 450 positives and, at FPR 0.1, three times 405 of 4,500 - 450 negatives, ten times
    # as many as at FPR 0.01.
    for most, fprs in ((1000, "1e-1"), (449, "1e-1, 1e-2")):
        few = functools.partial(allpairs.labelled_intervals, max_pairs=most)
        monkeypatch.setattr(verification, "labelled_intervals", few)
        report = verify_embeddings(embeddings, labels, (0.1, 0.01), replicates=20)
        (sentence,) = report.without_interval
        assert sentence.startswith(f"No interval at FPR {fprs}: its pairs are too many")
        assert report.to_dict()["without_interval"] == [sentence]


def test_intervals_cover_their_figures_and_survive_json(rng):
    embeddings, labels = people(rng, 40, 6, 32, noise=1.5)
    report = verify_embeddings(embeddings, labels, (0.1, 0.01, 1e-6), replicates=100)
    figures = {"accuracy": report.accuracy_mean}
    for name, fpr in (("1e-1", 0.1), ("1e-2", 0.01)):
        figures[f"tpr_at_fpr_{name}"] = report.tpr[fpr]
        figures[f"threshold_at_fpr_{name}"] = report.thresholds[fpr]
    assert report.intervals.keys() == figures.keys()
    for name, (low, high) in report.intervals.items():
        assert low <= figures[name] <= high > low
    plain = report.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["tpr"].keys() == plain["thresholds"].keys() == {"1e-1", "1e-2", "1e-6"}
    assert plain["tpr"]["1e-6"] is None
    assert len(plain["not_measurable"]) == 1


def test_rejects_labels_that_make_too_few_pairs():
    for labels, words in (
        ([0, 1, 2], "needs 10 pairs.*3 images of 3 identities.* 0 positive and 3"),
        ([4, 4, 4], "needs 10 pairs.*3 images of 1 identities.* 3 positive and 0"),
        ([0, 0, 1, 1], "needs 10 pairs.*2 positive and 4 negative"),
    ):
        refused(words, verify_embeddings, np.ones((len(labels), 2)), labels)
    rows = np.ones((40, 2))
    rows[7] = np.nan
    refused("1 of 40 rows .* 7$", verify_embeddings, rows, np.arange(40) // 4)
    refused("two rows per pair.* 2 pairs", verify_pairs, np.ones((3, 2)), [True, False])
    refused("2 positive and 0 negative", verify_pairs, np.ones((4, 2)), [True, True])
    # All pairs are accepted at FPR 1: there is no threshold to report.
    faces, same = given_pairs(np.random.default_rng(0))
    refused("`replicates` must be in", verify_pairs, faces, same, replicates=-1)
    refused(r"`fprs` must be in \[0, 1\)", verify_pairs, faces, same, fprs=(1.0,))


def given_pairs(rng, pairs=200, noise=1.0):
    """Embeddings `(2 * pairs, 16)` and whether each pair is of one identity."""
    same = np.arange(pairs) % 2 == 0
    left, other, noises = rng.normal(size=(3, pairs, 16))
    right = np.where(same[:, None], left, other) + noise * noises
    return np.stack([left, right], axis=1).reshape(-1, 16), same


def test_pairs_reproduce_insightface(golden_arrays):
    arrays = golden_arrays("verification_insightface.npz")
    report = verify_pairs(arrays["embeddings"], arrays["issame"], replicates=0)
    assert report.accuracy_mean == pytest.approx(arrays["accuracy_mean"], abs=1e-12)
    assert report.accuracy_std == pytest.approx(arrays["accuracy_std"], abs=1e-12)
    assert report.num_pairs == 600


def test_figures_of_pairs_agree_with_loops_and_lie_in_their_intervals(rng):
    embeddings, same = given_pairs(rng, pairs=1000, noise=1.5)
    report = verify_pairs(embeddings, same, (0.1,), replicates=100)
    rows = unit(embeddings)
    cosines = np.array([rows[2 * i] @ rows[2 * i + 1] for i in range(len(same))])
    # Of 500 negatives FPR 0.1 lets 50 through: the next is the threshold.
    threshold = np.sort(cosines[~same])[-51]
    assert report.thresholds[0.1] == pytest.approx(threshold, abs=1e-6)
    assert report.tpr[0.1] == np.mean(cosines[same] > threshold + 1e-6)
    figures = {"accuracy": report.accuracy_mean, "tpr_at_fpr_1e-1": report.tpr[0.1]}
    figures |= {"auc": report.auc, "eer": report.eer}
    assert report.intervals.keys() == figures.keys()
    for name, (low, high) in report.intervals.items():
        assert low <= figures[name] <= high
        assert 0 < high - low < 0.2


def test_pairs_sorted_by_kind_give_every_figure_and_say_how_they_were_cut(rng):
    embeddings, same = given_pairs(rng)
    order = np.argsort(~same, kind="stable")
    rows = np.stack([2 * order, 2 * order + 1], axis=1).reshape(-1)
    sorted_ = verify_pairs(embeddings[rows], same[order], (0.1,), replicates=10)
    mixed = verify_pairs(embeddings, same, (0.1,), replicates=10)
    assert (sorted_.stratified, mixed.stratified) == (True, False)
    # Pair i of a kind is in fold i // 10 of both.
    assert sorted_.accuracy_mean == mixed.accuracy_mean
    assert sorted_.intervals.keys() == mixed.intervals.keys()
    for name, interval in mixed.intervals.items():
        assert sorted_.intervals[name] == pytest.approx(interval)


def test_table_has_a_line_per_model_and_intervals_behind_figures(rng):
    embeddings, same = given_pairs(rng)
    plain = dataclasses.replace(
        verify_pairs(embeddings, same, (1e-1, 1e-4), replicates=0),
        **{"accuracy_mean": 0.99, "accuracy_std": 0.01, "accuracy_best": 0.995},
        **{"tpr": {1e-1: 0.9, 1e-4: None}, "auc": 0.9999995, "eer": 0.01},
    )
    intervals = {"accuracy": (0.98, 1.0), "tpr_at_fpr_1e-1": (0.85, 0.95)}
    with_intervals = dataclasses.replace(plain, intervals=intervals)
    table = figures_table([("one", plain), ("two", with_intervals)]).split("\n")
    header, _, *cells = [[c.strip() for c in line.split("|")[1:-1]] for line in table]
    assert header == "model accuracy best AUC EER TPR@1e-1 TPR@1e-4".split()
    one = "one|0.9900 +- 0.0100|0.9950|1.000000|0.0100|0.9000|n/a"
    two = "two|0.9900 +- 0.0100 [0.9800, 1.0000]|0.9950|1.000000|0.0100|"
    two += "0.9000 [0.8500, 0.9500]|n/a"
    assert cells == [one.split("|"), two.split("|")]
