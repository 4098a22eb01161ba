import subprocess
import sys

import numpy as np
import pytest
from sklearn import metrics as sk

from ekd_tf.metrics import roc

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


def random_scores(seed):
    """Scores of random sizes, on a grid so coarse that most of them tie."""
    rng = np.random.default_rng(seed)
    positives, negatives = rng.integers(1, 60), rng.integers(1, 400)
    decimals = int(rng.integers(0, 4))
    return (
        np.round(rng.normal(1, 1, positives), decimals),
        np.round(rng.normal(0, 1, negatives), decimals),
    )


def sklearn_curve(positive, negative):
    labels = np.r_[np.ones(positive.size), np.zeros(negative.size)]
    return sk.roc_curve(labels, np.r_[positive, negative], drop_intermediate=False)


# --- TPR at FPR


@pytest.mark.parametrize(
    ("target", "tpr", "threshold", "fpr"),
    [
        (0.0, 1 / 4, 0.8, 0.0),
        (0.19, 1 / 4, 0.8, 0.0),
        (0.2, 2 / 4, 0.6, 0.2),
        (0.4, 2 / 4, 0.5, 0.4),
        (0.6, 4 / 4, 0.3, 0.6),
        (0.99, 4 / 4, 0.1, 0.8),
        (1.0, 4 / 4, -np.inf, 1.0),
    ],
)
def test_operating_point_computed_by_hand(target, tpr, threshold, fpr):
    (point,) = roc.operating_points(POSITIVE, NEGATIVE, [target])
    assert point == roc.RocPoint(
        target_fpr=target,
        fpr=fpr,
        tpr=tpr,
        threshold=threshold,
        negatives_allowed=round(fpr * 5),
    )


def test_tied_negatives_are_rejected_together():
    # Of six negatives three tie at 0.7. FPR 1/3 would admit two of them, but no
    # threshold does: only 0.7 itself keeps the FPR at or below the target.
    negative = np.array([0.7, 0.7, 0.7, 0.2, 0.1, 0.0])
    (point,) = roc.operating_points([0.9, 0.7, 0.5], negative, [1 / 3])
    assert (point.threshold, point.fpr, point.tpr) == (0.7, 0.0, 1 / 3)
    assert point.negatives_allowed == 2


@pytest.mark.parametrize("seed", range(60))
def test_matches_best_sklearn_point_within_the_target(seed):
    positive, negative = random_scores(seed)
    fprs = [0.0, 1e-3, 1e-2, 0.1, 0.25, 0.5, 0.9, 1.0]
    tpr, thresholds = roc.tpr_at_fpr(positive, negative, fprs)
    curve_fpr, curve_tpr, _ = sklearn_curve(positive, negative)
    for k, target in enumerate(fprs):
        assert tpr[k] == curve_tpr[curve_fpr <= target].max()
        assert np.mean(positive > thresholds[k]) == tpr[k]
        assert np.mean(negative > thresholds[k]) <= target
        # The smallest threshold: one score lower the target is exceeded.
        lower = np.nextafter(thresholds[k], -np.inf)
        assert target == 1.0 or np.mean(negative > lower) > target


@pytest.mark.parametrize("seed", range(10))
def test_never_above_the_target_at_fprs_that_are_fractions(seed):
    # Targets exactly j / n, where rounding of n * fpr can go either way.
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 500))
    targets = np.arange(size + 1) / size
    points = roc.operating_points(rng.normal(size=5), rng.normal(size=size), targets)
    assert [point.fpr for point in points] == targets.tolist()


def test_count_of_allowed_negatives_survives_rounding():
    # 100 * 0.29 = 28.999999999999996 in float64.
    np.testing.assert_array_equal(
        roc.allowed_negatives(100, [0.29, 0.1, 0.0099, 0.01, 0.0, 1.0]),
        [29, 10, 0, 1, 0, 100],
    )


def test_target_no_threshold_reaches_gives_the_tpr_at_fpr_zero():
    negative = np.linspace(0, 0.5, 100)
    points = roc.operating_points([0.4, 0.6, 0.7, 0.5], negative, [1e-2, 1e-3, 1e-6])
    assert [point.tpr for point in points] == [0.75, 0.5, 0.5]
    assert [point.threshold for point in points[1:]] == [0.5, 0.5]
    assert [point.fpr for point in points] == [0.01, 0.0, 0.0]


def test_collapsed_model_has_tpr_zero_below_fpr_one():
    same = np.full(50, 0.25)
    tpr, thresholds = roc.tpr_at_fpr(same, np.full(70, 0.25), [1e-6, 0.1, 0.999, 1])
    np.testing.assert_array_equal(tpr, [0, 0, 0, 1])
    np.testing.assert_array_equal(thresholds, [0.25, 0.25, 0.25, -np.inf])


def test_arguments_are_left_as_they_were(rng):
    positive, negative = rng.normal(size=20), rng.normal(size=30)
    copies = positive.copy(), negative.copy()
    roc.tpr_at_fpr(positive, negative, [0.1, 0.5])
    roc.roc_curve(positive, negative)
    roc.auc(positive, negative)
    roc.equal_error_rate(positive, negative)
    np.testing.assert_array_equal(positive, copies[0])
    np.testing.assert_array_equal(negative, copies[1])


def test_float32_and_float64_scores_are_compared_without_rounding():
    # float32(0.1) is above 0.1, so the positive wins by 1.5e-9.
    positive, negative = np.array([0.1], np.float32), np.array([0.1])
    tpr, _ = roc.tpr_at_fpr(positive, negative, [0.5])
    assert tpr == [1.0]
    assert roc.auc(positive, negative) == 1.0


# --- curve


def test_curve_computed_by_hand():
    fpr, tpr, thresholds = roc.roc_curve(POSITIVE, NEGATIVE)
    np.testing.assert_array_equal(thresholds, [0.9, 0.8, 0.6, 0.5, 0.3, 0.1, -np.inf])
    np.testing.assert_array_equal(fpr, [0, 0, 1 / 5, 2 / 5, 3 / 5, 4 / 5, 1])
    np.testing.assert_array_equal(tpr, [0, 1 / 4, 2 / 4, 2 / 4, 1, 1, 1])


@pytest.mark.parametrize("seed", range(30))
def test_curve_matches_sklearn(seed):
    positive, negative = random_scores(seed)
    fpr, tpr, _ = roc.roc_curve(positive, negative)
    expected_fpr, expected_tpr, _ = sklearn_curve(positive, negative)
    np.testing.assert_allclose(fpr, expected_fpr, rtol=1e-15)
    np.testing.assert_allclose(tpr, expected_tpr, rtol=1e-15)


@pytest.mark.parametrize("max_points", [3, 4, 10, 101])
@pytest.mark.parametrize("seed", range(5))
def test_thinned_curve_is_part_of_the_whole(seed, max_points):
    rng = np.random.default_rng(seed)
    positive, negative = rng.normal(1, 1, 700), rng.normal(0, 1, 5000)
    fpr, tpr, thresholds = roc.roc_curve(positive, negative, max_points=max_points)
    assert fpr.size <= max_points
    whole = set(zip(*(values.tolist() for values in roc.roc_curve(positive, negative))))
    assert set(zip(fpr.tolist(), tpr.tolist(), thresholds.tolist())) <= whole
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(fpr) >= 0).all() and (np.diff(tpr) >= 0).all()


def test_thinned_curve_keeps_the_low_fprs(rng):
    fpr, _, _ = roc.roc_curve(
        rng.normal(size=1000), rng.normal(size=100_000), max_points=200
    )
    for decade in range(-5, 0):
        inside = (fpr >= 10.0**decade) & (fpr < 10.0 ** (decade + 1))
        assert inside.sum() >= 3, decade


# --- area and equal error rate


def test_auc_computed_by_hand():
    # Negatives below each positive, ties as half: 0.8: 4.5, 0.5: 2.5, 0.9: 5,
    # 0.5: 2.5, together 14.5 of 20.
    assert roc.auc(POSITIVE, NEGATIVE) == 14.5 / 20


@pytest.mark.parametrize("seed", range(30))
def test_auc_matches_sklearn(seed):
    positive, negative = random_scores(seed)
    labels = np.r_[np.ones(positive.size), np.zeros(negative.size)]
    expected = sk.roc_auc_score(labels, np.r_[positive, negative])
    np.testing.assert_allclose(roc.auc(positive, negative), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("positive", "negative", "expected"),
    [
        ([2.0, 3.0], [0.0, 1.0], 0.0),
        ([0.0, 1.0], [2.0, 3.0], 1.0),
        ([1.0, 1.0], [1.0, 1.0, 1.0], 0.5),
        # Above 1: one of two negatives, one of two positives.
        ([1.0, 3.0], [0.0, 2.0], 0.5),
        # Between (0, 2/3) and (1/2, 2/3) the curve is level; FPR = 1 - 2/3 there.
        ([4.0, 3.0, 0.0], [2.0, 1.0], 1 / 3),
        # From (0, 1/2) straight to (1/2, 1) through tied scores: FPR = FNR at 1/4.
        ([4.0, 2.0], [2.0, 1.0], 1 / 4),
    ],
)
def test_equal_error_rate_computed_by_hand(positive, negative, expected):
    np.testing.assert_allclose(
        roc.equal_error_rate(positive, negative), expected, atol=1e-15
    )


@pytest.mark.parametrize("seed", range(40))
def test_equal_error_rate_lies_on_sklearn_curve(seed):
    positive, negative = random_scores(seed)
    fpr, tpr, _ = sklearn_curve(positive, negative)
    # FPR + TPR rises along the curve from 0 to 2 and is 1 where FPR = FNR.
    expected = np.interp(1.0, fpr + tpr, fpr)
    np.testing.assert_allclose(
        roc.equal_error_rate(positive, negative), expected, atol=1e-12
    )


# --- wrong input


def test_metrics_do_not_import_tensorflow():
    code = (
        "import sys, ekd_tf.metrics;"
        "sys.exit(any(m.split('.')[0] in ('tensorflow', 'keras') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    "figure",
    [
        lambda p, n: roc.tpr_at_fpr(p, n, [0.1]),
        lambda p, n: roc.tpr_at_nearest_fpr(p, n, [0.1]),
        roc.roc_curve,
        roc.auc,
        roc.equal_error_rate,
    ],
    ids=["tpr_at_fpr", "tpr_at_nearest_fpr", "roc_curve", "auc", "equal_error_rate"],
)
def test_rejects_scores_that_make_no_curve(figure):
    for positive, negative, message in (
        ([], [0.1], "both kinds.*Received: no positive_scores"),
        ([0.1], [], "both kinds.*Received: no negative_scores"),
        ([0.1, np.nan], [0.1], "`positive_scores` must be finite.*1 of 2"),
        ([0.1], [0.1, np.inf, np.inf], "`negative_scores` must be finite.*2 of 3"),
        ([0.1], [[0.1, 0.2]], "`negative_scores` must have 1 dimension"),
    ):
        with pytest.raises(ValueError, match=message):
            figure(positive, negative)


def test_rejects_fprs_and_points_that_mean_nothing():
    for fpr in (-0.1, 1.5, np.nan):
        with pytest.raises(ValueError, match=r"`fprs` must be in \[0, 1\]"):
            roc.tpr_at_fpr(POSITIVE, NEGATIVE, [0.1, fpr])
    with pytest.raises(ValueError, match="`fprs` must be a list of FPRs"):
        roc.tpr_at_fpr(POSITIVE, NEGATIVE, [])
    with pytest.raises(ValueError, match=r"`max_points` must be in \[3, inf\)"):
        roc.roc_curve(POSITIVE, NEGATIVE, max_points=2)


# --- TPR at the nearest FPR, as insightface takes it


def upstream(positive, negative, fprs):
    """What insightface's `eval_ijbc.py` does with scikit-learn's curve."""
    fpr, tpr, _ = sk.roc_curve(
        np.repeat([1, 0], [len(positive), len(negative)]),
        np.concatenate([positive, negative]),
    )
    fpr, tpr = np.flipud(fpr), np.flipud(tpr)
    found = []
    for target in fprs:
        _, place = min(zip(abs(fpr - target), range(len(fpr))))
        found.append((tpr[place], fpr[place]))
    return np.array(found).T


@pytest.mark.parametrize("digits", [1, 2, 9])
@pytest.mark.parametrize("seed", range(5))
def test_nearest_does_what_upstream_does(seed, digits):
    rng = np.random.default_rng(seed)
    positive = np.round(rng.normal(1, 1, int(rng.integers(1, 60))), digits)
    negative = np.round(rng.normal(0, 1, int(rng.integers(1, 300))), digits)
    fprs = (1e-4, 0.013, 0.1, 0.35, 0.9)
    found = roc.tpr_at_nearest_fpr(positive, negative, fprs)
    np.testing.assert_allclose(found, upstream(positive, negative, fprs), atol=1e-12)


@pytest.mark.parametrize("name", ["n1d1f1", "n0d0f0", "n1d0f1", "n0d1f1"])
def test_nearest_reproduces_insightface(golden_arrays, name):
    arrays = golden_arrays("ijb_insightface.npz")
    same, scores = arrays["pair_label"] == 1, arrays[f"{name}_score"]
    tpr, _ = roc.tpr_at_nearest_fpr(scores[same], scores[~same], arrays["fpr_targets"])
    np.testing.assert_allclose(tpr, arrays[f"{name}_tpr_nearest"], atol=1e-12)


def test_nearest_may_lie_above_the_target_where_the_strict_rule_does_not():
    # FPRs to be had: 0, 1/4, ...; 0.2 is nearer to 1/4.
    positive, negative = np.array([0.9, 0.5]), np.array([0.8, 0.4, 0.3, 0.2])
    tpr, fpr = roc.tpr_at_nearest_fpr(positive, negative, [0.2])
    assert (tpr[0], fpr[0]) == (1.0, 0.25)
    (strict,) = roc.operating_points(positive, negative, [0.2])
    assert (strict.tpr, strict.fpr) == (0.5, 0.0)


@pytest.mark.parametrize(
    ("fpr", "spelling"),
    [
        (1e-3, "1e-3"),
        (1e-10, "1e-10"),
        (2.5e-4, "2.5e-4"),
        (1 / 3, "3.333333e-1"),
        (np.float32(0.001), "1e-3"),
        (0.0, "0"),
        (1.0, "1"),
    ],
)
def test_spelling_of_fprs(fpr, spelling):
    assert roc.format_fpr(fpr) == spelling
