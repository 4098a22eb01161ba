import numpy as np
import pytest
from pairwise import with_identities
from toys import people
from toys import unit

from ekd_tf.metrics import fold_intervals
from ekd_tf.metrics import identity_intervals


def test_interval_of_a_mean_has_the_width_of_its_standard_error(rng):
    # 95 % of a normal distribution lie within 1.96 standard deviations.
    values, each = rng.normal(size=400), np.arange(400)
    ((low, high),) = fold_intervals(lambda rows: [values[rows].mean()], each, 2000)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)
    assert (high + low) / 2 == pytest.approx(values.mean(), abs=0.02)


def test_whole_folds_are_drawn():
    # Rows of a fold share a value: drawn one by one they would average out.
    fold = np.repeat(np.arange(10), 100)
    ((low, high),) = fold_intervals(lambda rows: [fold[rows].mean()], fold, 300)
    assert high - low > 2


@pytest.fixture
def scores(rng):
    embeddings, labels = people(rng, 40, 5, 8)
    return with_identities(unit(embeddings), labels)


def resampled_np(scores, fprs, replicates, seed):
    """The same resamples by repeating every score as often as it weighs."""
    rng = np.random.default_rng(seed)
    images, (all_positive, identity), (all_negative, first, second) = scores
    identities, found = len(images), []
    for _ in range(replicates):
        drawn = rng.integers(0, identities, identities)
        times = np.bincount(drawn, minlength=identities)
        negative = np.repeat(all_negative, times[first] * times[second])
        positive = np.repeat(all_positive, times[identity])
        row = []
        for fpr in fprs:
            threshold = np.sort(negative)[::-1][int(negative.size * fpr + 1e-9)]
            row.append((np.mean(positive > threshold), threshold))
        found.append(row)
    return np.percentile(found, (2.5, 97.5), axis=0).transpose(2, 1, 0)


def test_matches_repeating_scores(scores):
    settings = {"fprs": (0.1, 0.03), "replicates": 40, "seed": 7}
    expected = resampled_np(scores, **settings)
    found = identity_intervals(*scores, **settings)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_the_highest_negatives_are_enough(scores):
    images, positive, negative = scores
    top = np.argsort(-negative[0])[: int(0.3 * negative[0].size)]
    cut = images, positive, [column[top] for column in negative]
    whole, part = (identity_intervals(*s, (0.1,)) for s in (scores, cut))
    np.testing.assert_array_equal(whole, part)
    # Where they are not, nothing is said.
    assert np.isnan(identity_intervals(*cut, (0.5,))).all()
