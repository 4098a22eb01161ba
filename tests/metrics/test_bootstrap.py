import numpy as np
import pytest

from ekd_tf.metrics import fold_intervals
from ekd_tf.metrics import identity_intervals


def test_interval_of_a_mean_has_the_width_of_its_standard_error(rng):
    # 95 % of a normal distribution lie within 1.96 standard deviations.
    values = rng.normal(size=400)
    ((low, high),) = fold_intervals(
        lambda rows: [values[rows].mean()], np.arange(400), replicates=2000
    )
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)
    assert (high + low) / 2 == pytest.approx(values.mean(), abs=0.02)


def test_whole_folds_are_drawn():
    # Rows of a fold share a value: drawn one by one they would average out.
    fold = np.repeat(np.arange(10), 100)
    ((low, high),) = fold_intervals(lambda rows: [fold[rows].mean()], fold, 300)
    assert high - low > 2


def labelled(rng, identities=40, images=5):
    """Images per identity, and all pairs of drawn embeddings with their identities."""
    labels = np.repeat(np.arange(identities), images)
    embeddings = rng.normal(size=(identities, 8))[labels]
    embeddings += rng.normal(size=embeddings.shape)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    i, j = np.triu_indices(labels.size, 1)
    scores = (embeddings[i] * embeddings[j]).sum(axis=1)
    same = labels[i] == labels[j]
    return (
        np.full(identities, images),
        (scores[same], labels[i][same]),
        (scores[~same], labels[i][~same], labels[j][~same]),
    )


def resampled_np(scores, fprs, replicates, seed):
    """The same resamples by repeating every score as often as it weighs."""
    rng = np.random.default_rng(seed)
    images, (all_positive, identity), (all_negative, first, second) = scores
    identities = len(images)
    found = []
    for _ in range(replicates):
        times = np.zeros(identities, int)
        for drawn in rng.integers(0, identities, identities):
            times[drawn] += 1
        negative = np.repeat(all_negative, times[first] * times[second])
        positive = np.repeat(all_positive, times[identity])
        row = []
        for fpr in fprs:
            threshold = np.sort(negative)[::-1][int(negative.size * fpr + 1e-9)]
            row.append((np.mean(positive > threshold), threshold))
        found.append(row)
    return np.percentile(found, (2.5, 97.5), axis=0).transpose(2, 1, 0)


def test_matches_repeating_scores(rng):
    scores = labelled(rng)
    fprs = (0.1, 0.03)
    tpr, threshold = identity_intervals(*scores, fprs, replicates=40, seed=7)
    expected = resampled_np(scores, fprs, replicates=40, seed=7)
    np.testing.assert_allclose(tpr, expected[0], atol=1e-12)
    np.testing.assert_allclose(threshold, expected[1], atol=1e-12)


def test_the_highest_negatives_are_enough(rng):
    images, positive, negative = labelled(rng)
    top = np.argsort(-negative[0])[: int(0.3 * negative[0].size)]
    cut = images, positive, [column[top] for column in negative]
    for whole, part in zip(
        identity_intervals(images, positive, negative, (0.1,)),
        identity_intervals(*cut, (0.1,)),
    ):
        np.testing.assert_array_equal(whole, part)
    # Where they are not, nothing is said.
    for part in identity_intervals(*cut, (0.5,)):
        assert np.isnan(part).all()
