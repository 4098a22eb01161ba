import math

import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.heads import AdaFace
from ekd_tf.heads import arcface_target
from ekd_tf.heads.adaface import adaface_target


def head_with(centers, **kwargs):
    head = AdaFace(num_identities=len(centers), **kwargs)
    head.build((None, centers.shape[1]))
    head.centers.assign(centers)
    return head


def test_target_computed_by_hand():
    # cos 60 degrees; quality 1/2 of margin 0.4: cos(pi/3 - 0.2) - 0.6.
    target = adaface_target(tf.constant([0.5]), tf.constant([0.5]), 0.4)
    np.testing.assert_allclose(target, [math.cos(math.pi / 3 - 0.2) - 0.6], rtol=1e-5)


def test_lowest_quality_is_arcface_and_the_middle_cosface():
    cosine = tf.constant(np.cos(np.linspace(0.1, 2.4, 20)), tf.float32)
    low = adaface_target(cosine, tf.fill([20], -1.0), 0.4)
    np.testing.assert_allclose(low, arcface_target(cosine, 0.4), atol=1e-5)
    middle = adaface_target(cosine, tf.zeros([20]), 0.4)
    np.testing.assert_allclose(middle, cosine - 0.4, atol=1e-5)


def test_gradient_is_finite_at_the_ends(run_as):
    cosines, qualities = np.meshgrid(
        np.float32([-1.0000001, -1.0, 1.0, 1.0000001]), np.float32([-1, 0, 1])
    )

    def gradient(c):
        with tf.GradientTape() as tape:
            tape.watch(c)
            target = adaface_target(c, tf.constant(qualities.ravel()), 0.4)
        return target, tape.gradient(target, c)

    for tensor in run_as(gradient)(tf.constant(cosines.ravel())):
        assert np.isfinite(tensor).all()


def expected_logits(rows, centers, labels, mean, deviation, h=0.333, m=0.4, s=64.0):
    """The formula as loops over entries in float64."""
    logits = np.zeros((len(rows), len(centers)))
    for i, row in enumerate(np.float64(rows)):
        length = min(max(np.linalg.norm(row), 1e-3), 100.0)
        z = min(max((length - mean) / (deviation + 1e-3) * h, -1.0), 1.0)
        for j, center in enumerate(np.float64(centers)):
            logits[i, j] = row @ center / np.linalg.norm(row) / np.linalg.norm(center)
        angle = math.acos(logits[i, labels[i]]) - m * z
        angle = min(max(angle, 1e-3), math.pi - 1e-3)
        logits[i, labels[i]] = math.cos(angle) - m - m * z
    return s * logits


def test_matches_numpy_reference_with_the_new_averages(rng, run_as):
    rows = np.float32(rng.normal(size=(7, 8)) * rng.uniform(1, 60, (7, 1)))
    centers = np.float32(rng.normal(size=(11, 8)))
    labels = np.int32([0, 1, 1, 5, 10, 9, 3])
    in_margin = np.float32([1, 1, 1, 0, 1, 1, 0])
    head = head_with(centers, momentum=0.5)
    logits = run_as(lambda e, y, m: head(e, y, m))(
        *map(tf.constant, (rows, labels, in_margin))
    )
    lengths = np.minimum(np.linalg.norm(np.float64(rows), axis=1), 100)
    lengths = lengths[in_margin > 0]
    mean = 0.5 * 20 + 0.5 * lengths.mean()
    deviation = 0.5 * 100 + 0.5 * lengths.std(ddof=1)
    np.testing.assert_allclose(head.length_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(head.length_deviation, deviation, rtol=1e-5)
    expected = expected_logits(rows, centers, labels, mean, deviation)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-3)


def test_quality_carries_no_gradient(rng):
    # Then the gradient is orthogonal to the embedding: lengthening it changes nothing
    # but the quality.
    head = head_with(np.float32(rng.normal(size=(5, 8))))
    rows = tf.constant(30 * rng.normal(size=(4, 8)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(rows)
        total = tf.reduce_sum(head.row_losses(rows, np.int32([0, 1, 2, 3])))
    gradient = tape.gradient(total, rows)
    along = tf.reduce_sum(gradient * rows, axis=1)
    assert np.abs(gradient).max() > 1e-3
    np.testing.assert_allclose(along, np.zeros(4), atol=1e-4)


@pytest.mark.parametrize("harm", ["one row", "not finite", "evaluation"])
def test_averages_stay_where_they_have_nothing_to_learn_from(harm):
    head = head_with(np.eye(3, dtype=np.float32))
    rows, labels = np.float32([[30, 40, 0], [0, 9, 12]]), np.int32([0, 1])
    head(rows, labels)
    before = float(head.length_mean), float(head.length_deviation)
    assert before[0] > 20 and before[1] < 100
    if harm == "one row":
        head(rows, labels, np.float32([0, 1]))
    elif harm == "not finite":
        head(rows * np.float32(np.nan), labels)
    else:
        head(rows, labels, training=False)
    assert (float(head.length_mean), float(head.length_deviation)) == before
