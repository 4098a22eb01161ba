import math

import numpy as np
import tensorflow as tf
from losses_numpy import margin_logits
from toys import with_centres

from ekd_tf.heads import AdaFace
from ekd_tf.heads.adaface import adaface_target


def test_target_computed_by_hand():
    # cos 60 degrees; quality 1/2 of margin 0.4: cos(pi/3 - 0.2) - 0.6.
    target = adaface_target(tf.constant([0.5]), tf.constant([0.5]), 0.4)
    np.testing.assert_allclose(target, [math.cos(math.pi / 3 - 0.2) - 0.6], rtol=1e-5)


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


def test_matches_numpy_reference_with_the_new_averages(rng, run_as):
    rows = np.float32(rng.normal(size=(7, 8)) * rng.uniform(1, 60, (7, 1)))
    centres = np.float32(rng.normal(size=(11, 8)))
    labels = np.int32([0, 1, 1, 5, 10, 9, 3])
    in_margin = np.float32([1, 1, 1, 0, 1, 1, 0])
    head = with_centres(AdaFace(11, momentum=0.5), centres)
    logits = run_as(lambda e, y, m: head(e, y, m))(
        *map(tf.constant, (rows, labels, in_margin))
    )
    lengths = np.minimum(np.linalg.norm(np.float64(rows), axis=1), 100)
    lengths = lengths[in_margin > 0]
    mean = 0.5 * 20 + 0.5 * lengths.mean()
    deviation = 0.5 * 100 + 0.5 * lengths.std(ddof=1)
    np.testing.assert_allclose(head.length_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(head.length_deviation, deviation, rtol=1e-5)

    def target(cosine, row):
        length = min(max(np.linalg.norm(row), 1e-3), 100.0)
        z = min(max((length - mean) / (deviation + 1e-3) * 0.333, -1.0), 1.0)
        angle = min(max(math.acos(cosine) - 0.4 * z, 1e-3), math.pi - 1e-3)
        return math.cos(angle) - 0.4 - 0.4 * z

    expected = margin_logits(rows, centres, labels, 64.0, target)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-3)


def test_quality_carries_no_gradient(rng):
    # Then the gradient is orthogonal to the embedding: lengthening it changes nothing
    # but the quality.
    head = with_centres(AdaFace(5), np.float32(rng.normal(size=(5, 8))))
    rows = tf.constant(30 * rng.normal(size=(4, 8)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(rows)
        total = tf.reduce_sum(head.row_losses(rows, np.int32([0, 1, 2, 3])))
    gradient = tape.gradient(total, rows)
    along = tf.reduce_sum(gradient * rows, axis=1)
    assert np.abs(gradient).max() > 1e-3
    np.testing.assert_allclose(along, np.zeros(4), atol=1e-4)
