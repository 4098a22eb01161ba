import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from ekd_tf.metrics import operating_points
from ekd_tf.metrics import tpr_at_nearest_fpr


def upstream(positive, negative, fprs):
    """What insightface's `eval_ijbc.py` does with scikit-learn's curve."""
    fpr, tpr, _ = sklearn_metrics.roc_curve(
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
def test_does_what_upstream_does(seed, digits):
    rng = np.random.default_rng(seed)
    positive = np.round(rng.normal(1, 1, int(rng.integers(1, 60))), digits)
    negative = np.round(rng.normal(0, 1, int(rng.integers(1, 300))), digits)
    fprs = (1e-4, 0.013, 0.1, 0.35, 0.9)
    found = tpr_at_nearest_fpr(positive, negative, fprs)
    np.testing.assert_allclose(found, upstream(positive, negative, fprs), atol=1e-12)


@pytest.mark.parametrize("name", ["n1d1f1", "n0d0f0", "n1d0f1", "n0d1f1"])
def test_reproduces_insightface(golden_arrays, name):
    arrays = golden_arrays("ijb_insightface.npz")
    same, scores = arrays["pair_label"] == 1, arrays[f"{name}_score"]
    tpr, _ = tpr_at_nearest_fpr(scores[same], scores[~same], arrays["fpr_targets"])
    np.testing.assert_allclose(tpr, arrays[f"{name}_tpr_nearest"], atol=1e-12)


def test_may_lie_above_the_target_where_the_strict_rule_does_not():
    # FPRs to be had: 0, 1/4, ...; 0.2 is nearer to 1/4.
    positive, negative = np.array([0.9, 0.5]), np.array([0.8, 0.4, 0.3, 0.2])
    tpr, fpr = tpr_at_nearest_fpr(positive, negative, [0.2])
    assert (tpr[0], fpr[0]) == (1.0, 0.25)
    (strict,) = operating_points(positive, negative, [0.2])
    assert (strict.tpr, strict.fpr) == (0.5, 0.0)


def test_rejects_one_kind_of_pairs():
    with pytest.raises(ValueError, match="no negative_scores"):
        tpr_at_nearest_fpr([0.1], [], [0.1])
