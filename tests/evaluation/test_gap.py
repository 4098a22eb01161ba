import functools
import itertools
import json

import numpy as np
from refusals import refused
from toys import people
from toys import unit

from ekd_tf.evaluation import allpairs
from ekd_tf.evaluation import gap
from ekd_tf.evaluation.allpairs import PairBlocks
from ekd_tf.evaluation.allpairs import all_pair_scores
from ekd_tf.evaluation.gap import measure_gap
from ekd_tf.metrics import ROC


def two_models(rng):
    teacher, labels = people(rng, 12, 5, 24)
    return teacher[:, :16] + 0.7 * rng.normal(size=(60, 16)), teacher, labels


def critical_np(models, labels, thresholds):
    """Critical pairs of each kind as loops, the most different first."""
    found = {True: [], False: []}
    for i, j in itertools.combinations(range(len(labels)), 2):
        above = [rows[i] @ rows[j] - t for rows, t in zip(models, thresholds)]
        # The pairs that set the thresholds lie on them but for rounding.
        of_teacher, of_student = (a if abs(a) > 1e-6 else 0 for a in above)
        if (of_teacher > 0) != (of_student > 0):
            difference = abs(of_teacher - of_student)
            found[labels[i] == labels[j]].append((difference, (i, j)))
    found = {kind: sorted(pairs, reverse=True) for kind, pairs in found.items()}
    return {kind: [pair for _, pair in pairs] for kind, pairs in found.items()}


def test_matches_loops_over_pairs(rng, monkeypatch):
    student, teacher, labels = two_models(rng)
    blocks = functools.partial(PairBlocks, block_size=7)
    for module in (allpairs, gap):
        monkeypatch.setattr(module, "PairBlocks", blocks)
    report = measure_gap(student, teacher, labels, (0.2, 0.05, 0.01), worst=4)
    rows = unit(teacher), unit(student)
    assert (report.num_positive, report.num_negative) == (120, 60 * 59 / 2 - 120)
    for point in report.points:
        thresholds = point.teacher_threshold, point.student_threshold
        expected = critical_np(rows, labels, thresholds)
        assert point.critical_positive == len(expected[True]) > 0
        assert point.critical_negative == len(expected[False]) > 0
        assert point.worst_positive == tuple(expected[True][:4])
        assert point.worst_negative == tuple(expected[False][:4])
        worst = point.worst_positive + point.worst_negative
        for (i, j), cosines in zip(worst, point.worst_cosines):
            np.testing.assert_allclose(cosines, [r[i] @ r[j] for r in rows], atol=1e-6)
    # A model has none to itself.
    (same,) = measure_gap(teacher, teacher, labels, (0.01,), worst=10).points
    assert (same.gap, same.critical_positive, same.critical_negative) == (0, 0, 0)
    assert same.worst_positive == same.worst_negative == ()


def test_pairs_equally_far_apart_are_named_in_the_order_of_their_rows():
    # The teacher sees two identities at right angles, the student everything alike.
    labels = np.tile([1, 0], 5)
    teacher, student = np.eye(2)[labels], np.ones((10, 1))
    (point,) = measure_gap(student, teacher, labels, (0.5,), worst=5).points
    assert (point.critical_positive, point.critical_negative) == (20, 0)
    assert point.worst_positive == ((0, 2), (0, 4), (0, 6), (0, 8), (1, 3))


def test_rates_are_those_of_each_model_alone_and_the_share_is_of_them(rng):
    student, teacher, labels = two_models(rng)
    baseline = teacher[:, :16] + 3 * rng.normal(size=(len(labels), 16))
    fprs = (0.1, 0.01)
    report = measure_gap(student, teacher, labels, fprs, baseline_embeddings=baseline)
    scores = (all_pair_scores(rows, labels) for rows in (student, teacher, baseline))
    alone = [ROC.of(*kinds).points(fprs) for kinds in scores]
    for point, of_student, of_teacher, of_baseline in zip(report.points, *alone):
        assert point.fpr == of_teacher.target_fpr
        assert point.teacher_tpr == of_teacher.tpr
        assert point.student_tpr == of_student.tpr
        assert point.baseline_tpr == of_baseline.tpr
        assert point.teacher_threshold == of_teacher.threshold
        assert point.student_threshold == of_student.threshold
        assert point.gap == of_teacher.tpr - of_student.tpr > 0.05
        gained = of_student.tpr - of_baseline.tpr
        assert point.closed == gained / (gained + point.gap) > 0
    assert "baseline TPR" in report.to_table()
    # None of a baseline above the teacher.
    report = measure_gap(student, student, labels, (0.1,), baseline_embeddings=teacher)
    assert report.points[0].closed is None
    assert report.to_table().endswith("n/a    |")


def test_fprs_without_enough_negatives_have_no_figures_in_table_and_json(rng):
    report = measure_gap(*two_models(rng), (0.1, 1e-4), worst=2)
    unmeasured = report.points[1]
    assert unmeasured.fpr == 1e-4
    assert unmeasured.gap is unmeasured.teacher_tpr is unmeasured.worst_positive is None
    assert "1e-4 is not measurable" in report.not_measurable[0]
    plain = report.to_dict()
    assert plain["points"].keys() == {"1e-1", "1e-4"}
    assert plain["points"]["1e-1"]["gap"] == report.points[0].gap
    assert plain["not_measurable"] == list(report.not_measurable)
    json.dumps(plain)
    lines = report.to_table().split("\n")
    assert len(lines) == 4
    assert lines[2].startswith(f"| 1e-1 | {report.points[0].teacher_tpr:11.4f} |")
    assert lines[3].count("n/a") == 4


def test_rejects_models_that_saw_different_numbers_of_images(rng):
    student, teacher, labels = two_models(rng)
    words = "`{}_embeddings`.*59 rows, 60 labels"
    refused("`worst` must be in", measure_gap, student, teacher, labels, worst=-1)
    refused(words.format("student"), measure_gap, student[:-1], teacher, labels)
    refused(words.format("teacher"), measure_gap, student, teacher[:-1], labels)
