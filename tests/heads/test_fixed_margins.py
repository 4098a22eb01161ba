"""The heads of a fixed margin: hand values, loops, and central differences."""

import math

import losses_numpy as reference
import numpy as np
import pytest
import tensorflow as tf
from toys import with_centres

from ekd_tf.heads import ArcFace
from ekd_tf.heads import CombinedMargin
from ekd_tf.heads import CosFace
from ekd_tf.heads import arcface_target
from ekd_tf.heads import combined_target
from ekd_tf.heads import default_scale


def arcface_np(embeddings, centres, labels, scale, margin):
    def target(cosine, row):
        return reference.arcface_target(cosine, margin)

    return reference.margin_logits(embeddings, centres, labels, scale, target)


def test_value_computed_by_hand():
    # The embedding lies 60 degrees from the first centre and 30 from the second.
    # With a margin of 30 degrees and scale 2 the target is 2 cos 90 = 0 at label 0
    # and 2 cos 60 = 1 at label 1; the others are 2 cos 30 and 2 cos 60. Lengths 3
    # and 5 change nothing.
    embeddings = np.float32([[1.5, 3 * math.sqrt(3) / 2]] * 2)
    head = ArcFace(2, scale=2.0, margin=math.pi / 6)
    head = with_centres(head, np.float32([[5.0, 0.0], [0.0, 0.1]]))
    logits = head(embeddings, np.int32([0, 1]))
    expected = [[0.0, math.sqrt(3)], [1.0, 1.0]]
    np.testing.assert_allclose(logits, expected, atol=1e-6)


def test_matches_numpy_reference(rng, run_as):
    embeddings = np.float32(rng.normal(size=(17, 8)))
    centres = np.float32(rng.normal(size=(11, 8)))
    labels = rng.integers(0, 11, 17).astype(np.int32)
    head = with_centres(ArcFace(11, scale=64.0, margin=0.5), centres)
    logits = run_as(lambda e, y: head(e, y))(embeddings, labels)
    expected = arcface_np(embeddings, centres, labels, 64.0, 0.5)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_target_is_guarded_beyond_pi_minus_margin(run_as):
    # 0.1 rad before the guard, and 0.1 and 0.5 rad (cosine -1) beyond it.
    margin = 0.5
    theta = math.pi - margin + np.array([-0.1, 0.1, 0.5])
    target = run_as(lambda c: arcface_target(c, margin))(
        tf.constant(np.cos(theta), tf.float32)
    )
    expected = [
        -math.cos(0.1),
        math.cos(theta[1]) - 0.5 * math.sin(0.5),
        -1.0 - 0.5 * math.sin(0.5),
    ]
    np.testing.assert_allclose(target, expected, rtol=1e-6)
    theta = np.linspace(0.01, math.pi, 400)
    target = arcface_target(tf.constant(np.cos(theta), tf.float32), 0.5).numpy()
    assert np.all(np.diff(target) < 0)


def test_gradient_matches_central_differences(rng):
    # One row beyond the guard: its embedding opposes its own centre.
    embeddings, centres = rng.normal(size=(3, 4)), rng.normal(size=(5, 4))
    centres[2] = -embeddings[2] + 0.1 * rng.normal(size=4)
    # Stored centres are float32, so differences start from those.
    points = [embeddings, np.float64(np.float32(centres))]
    labels, weights = np.int32([0, 1, 2]), rng.normal(size=(3, 5))
    head = with_centres(ArcFace(5, scale=2.0, margin=0.4), points[1])
    inputs = tf.constant(embeddings, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(tf.cast(weights, tf.float32) * head(inputs, labels))
    gradients = tape.gradient(loss, [inputs, head.trainable_variables[0]])
    for which, gradient in enumerate(gradients):
        expected = np.zeros_like(points[which])
        for index in np.ndindex(expected.shape):
            sides = []
            for step in (1e-6, -1e-6):
                moved = [array.copy() for array in points]
                moved[which][index] += step
                sides.append(np.sum(weights * arcface_np(*moved, labels, 2.0, 0.4)))
            expected[index] = (sides[0] - sides[1]) / 2e-6
        np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-3)


THETA = math.acos(0.3)


@pytest.mark.parametrize(
    "target, expected",
    [
        # cos(margin) at 1, by the docstring; the slope of the guard, 1, at -1.
        (
            lambda c: arcface_target(c, 0.5),
            [1, 1, math.sin(THETA + 0.5) / math.sin(THETA), *[math.cos(0.5)] * 2],
        ),
        (
            lambda c: combined_target(c, 1.5, 0.2, 0.1),
            [0, 0, 1.5 * math.sin(1.5 * THETA + 0.2) / math.sin(THETA), 0, 0],
        ),
    ],
)
def test_gradient_is_that_of_the_formula_and_finite_at_the_ends(
    run_as, target, expected
):
    def gradient(c):
        with tf.GradientTape() as tape:
            tape.watch(c)
            value = target(c)
        return tape.gradient(value, c)

    # The neighbours of -1 and 1 outside, where rounding takes a normalised product.
    found = run_as(gradient)(tf.constant([-1.0000001, -1.0, 0.3, 1.0, 1.0000001]))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_degenerate_embeddings_stay_finite(run_as):
    head = with_centres(ArcFace(3), np.eye(3))

    def logits_and_gradients(e):
        with tf.GradientTape() as tape:
            tape.watch(e)
            logits = head(e, tf.constant([0, 1]))
            loss = tf.reduce_sum(logits)
        return logits, tape.gradient(loss, [e, head.trainable_variables[0]])

    step = run_as(logits_and_gradients)
    # Zero, equal to the centre, opposite to it, tiny.
    for rows in (np.zeros((2, 3)), np.eye(2, 3), -np.eye(2, 3), np.full((2, 3), 1e-20)):
        for tensor in tf.nest.flatten(step(tf.constant(rows, tf.float32))):
            assert np.all(np.isfinite(tensor.numpy()))


def test_computes_in_float32_under_mixed_precision(rng, mixed_policy):
    embeddings, centres = np.float32(rng.normal(size=(4, 8))), rng.normal(size=(5, 8))
    labels = np.int32([0, 1, 2, 4])
    mixed_policy("mixed_bfloat16")
    head = with_centres(ArcFace(5), centres)
    assert tf.as_dtype(head.centers.dtype) == tf.float32
    logits = head(embeddings, labels)
    assert logits.dtype == tf.float32
    expected = arcface_np(embeddings, centres, labels, 64.0, 0.5)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert ArcFace(num_identities=3, dtype="mixed_float16").compute_dtype == "float32"


# --- CosFace


def test_cosface_by_hand(run_as):
    # (3, 4) has cosines 0.6 and 0.8 to the axes: 10 (0.6 - 0.1) = 5 and 10 * 0.8.
    head = with_centres(CosFace(2, scale=10.0, margin=0.1), np.eye(2))
    logits = run_as(head)(tf.constant([[3.0, 4.0]]), tf.constant([0]))
    np.testing.assert_allclose(logits, [[5.0, 8.0]], rtol=1e-6)


# --- the three margins at once


def test_combined_target_computed_by_hand():
    # Twice pi/6 plus pi/6 is a right angle.
    target = combined_target(tf.constant([math.sqrt(3) / 2]), 2.0, math.pi / 6, 0.25)
    np.testing.assert_allclose(target, [-0.25], atol=1e-6)


def test_combined_target_past_pi_keeps_falling_without_a_step():
    # At m1 2, m2 0.3 the angle reaches pi at 1.42; 0.2 beyond it the target is
    # 0.2 below -1.
    theta = (math.pi - 0.3 + 0.2) / 2
    target = combined_target(tf.constant([math.cos(theta)]), 2.0, 0.3, 0.1)
    np.testing.assert_allclose(target, [-1.3], rtol=1e-5)
    theta = np.linspace(0.01, math.pi - 0.01, 400)
    target = combined_target(tf.constant(np.cos(theta), tf.float32), 2.0, 0.3, 0.0)
    steps = np.diff(target)
    assert np.all(steps < 0) and np.all(steps > -0.03)


def test_combined_head_places_the_target():
    head = CombinedMargin(3, scale=2.0, margin1=1.0, margin2=math.pi / 6, margin3=0.1)
    head = with_centres(head, np.eye(3))
    logits = head(np.float32([[3, 4, 0]]), np.int32([0]))
    moved = 0.6 * math.sqrt(3) / 2 - 0.8 / 2 - 0.1
    np.testing.assert_allclose(logits, [[2 * moved, 1.6, 0]], rtol=1e-5, atol=1e-6)


def test_the_default_scale_follows_the_identities_within_bounds():
    # sqrt(2) log(99,999) = 1.41421 * 11.51292.
    np.testing.assert_allclose(default_scale(100_000), 16.28173, rtol=1e-6)
    assert [default_scale(count) for count in (1, 2, 900, 10**20)] == [16, 16, 16, 64]
