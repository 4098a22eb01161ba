import numpy as np
import pytest
from refusals import refused
from sklearn import metrics as sk

from ekd_tf.metrics import ROC
from ekd_tf.metrics import allowed_negatives
from ekd_tf.metrics import format_fpr

# Scores with ties inside each kind and across kinds:
#   threshold   positives above   negatives above
#        0.9           0                 0
#        0.8           1                 0
#        0.6           2                 1
#        0.5           2                 2
#        0.3           4                 3
#        0.1           4                 4
#       -inf           4                 5
POSITIVE = np.array([0.8, 0.5, 0.9, 0.5])
NEGATIVE = np.array([0.5, 0.8, 0.1, 0.3, 0.6])


def test_curve_computed_by_hand():
    roc = ROC.of(POSITIVE, NEGATIVE)
    assert roc.thresholds.tolist() == [0.9, 0.8, 0.6, 0.5, 0.3, 0.1, -np.inf]
    fpr, tpr = roc.curve()
    np.testing.assert_array_equal(fpr, [0, 0, 1 / 5, 2 / 5, 3 / 5, 4 / 5, 1])
    np.testing.assert_array_equal(tpr, [0, 1 / 4, 2 / 4, 2 / 4, 1, 1, 1])
    assert (roc.num_positive, roc.num_negative) == (4, 5)
    # Negatives below each positive, ties as half: 0.8: 4.5, 0.5: 2.5, 0.9: 5,
    # 0.5: 2.5, together 14.5 of 20.
    assert roc.auc() == 14.5 / 20


@pytest.mark.parametrize("seed", range(10))
def test_curve_area_error_rate_and_best_points_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 60), rng.integers(1, 400)
    # On a grid so coarse that most of them tie.
    positive, negative = (
        np.round(rng.normal(mean, 1, size), int(rng.integers(0, 4)))
        for mean, size in zip((1, 0), sizes)
    )
    roc = ROC.of(positive, negative)
    labels = np.repeat([1, 0], [positive.size, negative.size])
    scores = np.concatenate([positive, negative])
    fpr, tpr, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(roc.curve(), (fpr, tpr), rtol=1e-15)
    assert roc.auc() == pytest.approx(sk.roc_auc_score(labels, scores), rel=1e-12)
    # FPR + TPR rises along the curve from 0 to 2 and is 1 where FPR = FNR.
    eer = np.interp(1.0, fpr + tpr, fpr)
    assert roc.eer() == pytest.approx(eer, abs=1e-12)
    fprs = [0.0, 1e-3, 1e-2, 0.1, 0.25, 0.5, 0.9, 1.0]
    for target, point in zip(fprs, roc.points(fprs)):
        assert point.tpr == tpr[fpr <= target].max()
        assert np.mean(positive > point.threshold) == point.tpr
        assert np.mean(negative > point.threshold) == point.fpr <= target
        # The smallest threshold: one score lower the target is exceeded.
        lower = np.nextafter(point.threshold, -np.inf)
        assert target == 1.0 or np.mean(negative > lower) > target


def test_operating_points_computed_by_hand():
    targets = [0.0, 0.19, 0.2, 0.4, 0.6, 0.99, 1.0]
    points = ROC.of(POSITIVE, NEGATIVE).points(targets)
    thresholds = [0.8, 0.8, 0.6, 0.5, 0.3, 0.1, -np.inf]
    assert [point.target_fpr for point in points] == targets
    assert [point.threshold for point in points] == thresholds
    assert [point.fpr for point in points] == [0.0, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert [4 * point.tpr for point in points] == [1, 1, 2, 2, 4, 4, 4]
    assert [point.negatives_allowed for point in points] == [0, 0, 1, 2, 3, 4, 5]


def test_tied_negatives_are_rejected_together():
    # Of six negatives three tie at 0.7. FPR 1/3 would admit two of them, but no
    # threshold does: only 0.7 itself keeps the FPR at or below the target.
    negative = [0.7, 0.7, 0.7, 0.2, 0.1, 0.0]
    (point,) = ROC.of([0.9, 0.7, 0.5], negative).points([1 / 3])
    assert (point.threshold, point.fpr, point.tpr) == (0.7, 0.0, 1 / 3)
    assert point.negatives_allowed == 2


def test_count_of_allowed_negatives_survives_rounding():
    # Targets exactly j / n, where rounding of n * fpr can go either way.
    for size in range(1, 200):
        counts = np.arange(size + 1)
        np.testing.assert_array_equal(allowed_negatives(size, counts / size), counts)
    # 100 * 0.29 = 28.999999999999996 in float64.
    allowed = allowed_negatives(100, [0.29, 0.1, 0.0099, 0.01, 0.0, 1.0])
    assert allowed.tolist() == [29, 10, 0, 1, 0, 100]


def test_equal_error_rate_computed_by_hand():
    for positive, negative, expected in (
        ([2.0, 3.0], [0.0, 1.0], 0.0),
        # Above 1: one of two negatives, one of two positives.
        ([1.0, 3.0], [0.0, 2.0], 0.5),
        # Between (0, 2/3) and (1/2, 2/3) the curve is level; FPR = 1 - 2/3 there.
        ([4.0, 3.0, 0.0], [2.0, 1.0], 1 / 3),
        # From (0, 1/2) straight to (1/2, 1) through tied scores: FPR = FNR at 1/4.
        ([4.0, 2.0], [2.0, 1.0], 1 / 4),
    ):
        eer = ROC.of(positive, negative).eer()
        assert eer == pytest.approx(expected, abs=1e-15)


def test_a_thinned_curve_is_part_of_the_whole_and_right_at_every_decade(rng):
    positive, negative = rng.normal(1, 1, 7000), rng.normal(0, 1, 100_000)
    roc = ROC.of(positive, negative)
    fpr, tpr = roc.curve()
    assert fpr.size <= 2002
    whole = zip(roc.negatives / 100_000, roc.positives / 7000)
    assert set(zip(fpr, tpr)) <= set(whole)
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(fpr) >= 0).all() and (np.diff(tpr) >= 0).all()
    fprs = [10.0**-k for k in range(6)]
    for target, point in zip(fprs, roc.points(fprs)):
        assert tpr[fpr <= target].max() == point.tpr


def test_rejects_scores_that_make_no_curve_and_fprs_that_mean_nothing():
    for positive, negative, message in (
        ([], [0.1], "both kinds.*Received: no positive scores"),
        ([0.1], [], "both kinds.*Received: no negative scores"),
        ([0.1, np.nan], [0.1], "must be finite"),
        ([0.1], [0.1, -np.inf], "must be finite"),
    ):
        refused(message, ROC.of, positive, negative)

    roc = ROC.of(POSITIVE, NEGATIVE)
    for fpr in (-0.1, 1.5, np.nan):
        refused(r"`fprs` must be in \[0, 1\]", roc.points, [0.1, fpr])


# As insightface takes it: tests/evaluation/test_ijb.py too.
def test_nearest_may_lie_above_the_target_where_the_strict_rule_does_not():
    # FPRs to be had: 0, 1/4, ...; 0.2 is nearer to 1/4.
    roc = ROC.of(np.array([0.9, 0.5]), np.array([0.8, 0.4, 0.3, 0.2]))
    tpr, fpr = roc.nearest([0.2])
    assert (tpr[0], fpr[0]) == (1.0, 0.25)
    (strict,) = roc.points([0.2])
    assert (strict.tpr, strict.fpr) == (0.5, 0.0)


def test_nearest_takes_the_points_of_scikit_learn(rng):
    for decimals in (1, 2, 9):
        scores = np.round(rng.random(40), decimals)
        positive, negative = scores[:15], scores[15:]
        known_fpr, known_tpr, _ = sk.roc_curve(np.arange(40) < 15, scores)
        targets = rng.random(20)
        nearest = [np.argmin(abs(known_fpr[::-1] - t)) for t in targets]
        tpr, fpr = ROC.of(positive, negative).nearest(targets)
        np.testing.assert_allclose(fpr, known_fpr[::-1][nearest])
        np.testing.assert_allclose(tpr, known_tpr[::-1][nearest])


def test_spelling_of_fprs():
    fprs = 1e-3, 1e-10, 2.5e-4, 1 / 3, np.float32(0.001), 0.0, 1.0
    spellings = ["1e-3", "1e-10", "2.5e-4", "3.333333e-1", "1e-3", "0", "1"]
    assert [format_fpr(fpr) for fpr in fprs] == spellings
