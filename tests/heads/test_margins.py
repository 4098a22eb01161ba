import math

import numpy as np
import pytest
import tensorflow as tf
from toys import value_and_gradient
from toys import with_centres

from ekd_tf.heads import AdaFace
from ekd_tf.heads import ArcFace
from ekd_tf.heads import CombinedMargin
from ekd_tf.heads import CosFace
from ekd_tf.heads import CurricularFace
from ekd_tf.heads import arcface_target
from ekd_tf.heads import default_scale


def test_arcface_target_is_guarded_beyond_pi_minus_margin(run_as):
    # 0.1 rad before the guard, and 0.1 and 0.5 rad (cosine -1) beyond it.
    margin = 0.5
    theta = math.pi - margin + np.array([-0.1, 0.1, 0.5])
    cosines = tf.constant(np.cos(theta), tf.float32)
    target = run_as(lambda c: arcface_target(c, margin))(cosines)
    expected = [
        -math.cos(0.1),
        math.cos(theta[1]) - 0.5 * math.sin(0.5),
        -1.0 - 0.5 * math.sin(0.5),
    ]
    np.testing.assert_allclose(target, expected, rtol=1e-6)
    theta = np.linspace(0.01, math.pi, 400)
    target = arcface_target(tf.constant(np.cos(theta), tf.float32), 0.5)
    assert np.all(np.diff(target) < 0)


def combined(*margins):
    head = CombinedMargin(2, 1.0, *margins)
    return lambda cosine: head.target_cosine(tf.constant(cosine, tf.float32), None)


def test_combined_target_past_pi_keeps_falling_without_a_step():
    # Twice pi/6 plus pi/6 is a right angle. At m1 2, m2 0.3 the angle reaches pi at
    # 1.42; 0.2 beyond it the target is 0.2 below -1.
    target = combined(2.0, math.pi / 6, 0.25)([math.sqrt(3) / 2])
    np.testing.assert_allclose(target, [-0.25], atol=1e-6)
    target = combined(2.0, 0.3, 0.1)([math.cos((math.pi - 0.3 + 0.2) / 2)])
    np.testing.assert_allclose(target, [-1.3], rtol=1e-5)
    theta = np.linspace(0.01, math.pi - 0.01, 400)
    steps = np.diff(combined(2.0, 0.3, 0.0)(np.cos(theta)))
    assert np.all(steps < 0) and np.all(steps > -0.03)


def test_hard_negatives_computed_by_hand(run_as):
    # Only 0.5 and 0.9 beat the target 0.4: 0.5 (0.3 + 0.5) and 0.9 (0.3 + 0.9). There
    # d/dc of c (t + c) is t + 2 c, and 1 on others: the choice and the stage are fixed.
    head = with_centres(CurricularFace(5), np.eye(5))
    head.stage.assign(0.3)

    def logits(cosine):
        return head.place_targets(cosine, tf.constant([0]), lambda own: 0.5 * own)

    cosines = tf.constant([[0.8, 0.4, 0.5, 0.9, -0.2]])
    found, slopes = run_as(value_and_gradient(logits))(cosines)
    np.testing.assert_allclose(found, [[0.4, 0.4, 0.4, 1.08, -0.2]], rtol=1e-6)
    np.testing.assert_allclose(slopes, [[0.5, 1.0, 1.3, 2.1, 1.0]], rtol=1e-6)


def test_logits_computed_by_hand(run_as):
    # (3, 4) has cosines 0.6 and 0.8 to the axes, whatever the centres' lengths; with a
    # margin of 30 degrees the target is 0.6 cos 30 - 0.8 sin 30.
    moved = 0.6 * math.sqrt(3) / 2 - 0.8 / 2
    for head, expected in (
        (ArcFace(2, scale=2.0, margin=math.pi / 6), [2 * moved, 1.6]),
        (CosFace(2, scale=10.0, margin=0.1), [5.0, 8.0]),
        (
            CombinedMargin(2, 2.0, margin1=1.0, margin2=math.pi / 6, margin3=0.1),
            [2 * (moved - 0.1), 1.6],
        ),
    ):
        head = with_centres(head, np.float32([[5.0, 0.0], [0.0, 0.1]]))
        logits = run_as(head)(tf.constant([[3.0, 4.0]]), tf.constant([0]))
        np.testing.assert_allclose(logits, [expected], rtol=1e-5)


def test_defaults_and_the_scale_that_follows_the_identities_within_bounds():
    # sqrt(2) log(99,999) = 1.41421 * 11.51292.
    np.testing.assert_allclose(default_scale(100_000), 16.28173, rtol=1e-6)
    assert (ArcFace(2).scale, ArcFace(2).margin) == (64.0, 0.5)
    assert [default_scale(count) for count in (1, 2, 900, 10**20)] == [16, 16, 16, 64]


def test_curricularface_uses_the_new_stage_a_running_mean_of_target_cosines(run_as):
    # Cosines to the true centres 0.6 and 0.8; the third row does not count. Of the
    # other cosines of the first 0.8 beats the target.
    head = with_centres(CurricularFace(3, scale=2.0, momentum=0.1), np.eye(3))
    rows = np.float32([[3, 4, 0], [3, 4, 0], [1, 1, 1]])
    batch = [tf.constant(x) for x in (rows, [0, 1, 2], [1.0, 1.0, 0.0])]
    target, step = math.cos(math.acos(0.6) + 0.5), run_as(head)
    for stage in (0.07, 0.9 * 0.07 + 0.07):
        logits = step(*batch)
        np.testing.assert_allclose(head.stage, stage, rtol=1e-5)
        expected = [2 * target, 2 * 0.8 * (stage + 0.8), 0]
        np.testing.assert_allclose(logits[0], expected, rtol=1e-5, atol=1e-6)


def test_adaface_uses_the_new_averages(run_as):
    # Of lengths 5 and 500, which counts as 100; the third row does not count.
    head = with_centres(AdaFace(2, scale=2.0, momentum=0.5), np.eye(2))
    rows = tf.constant([[3.0, 4.0], [300.0, 400.0], [9.0, 0.0]])
    logits = run_as(head)(rows, tf.constant([0, 1, 0]), tf.constant([1.0, 1.0, 0.0]))
    mean = 0.5 * 20 + 0.5 * 52.5
    deviation = 0.5 * 100 + 0.5 * 95 / math.sqrt(2)
    np.testing.assert_allclose(head.length_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(head.length_deviation, deviation, rtol=1e-5)
    run_as(head)(rows / tf.constant([[1.0], [1.0], [0.0]]), tf.constant([0, 1, 0]))
    # That batch had a row of infinity.
    np.testing.assert_allclose(head.length_mean, mean, rtol=1e-5)
    for row, (length, cosine) in enumerate(((5, 0.6), (100, 0.8))):
        quality = 0.333 * (length - mean) / (deviation + 1e-3)
        target = math.cos(math.acos(cosine) - 0.4 * quality) - 0.4 - 0.4 * quality
        np.testing.assert_allclose(logits[row, row], 2 * target, rtol=1e-5)


THETA = math.acos(0.3)


def of_adaface(quality):
    # Of embeddings far longer, or far shorter, than is usual.
    head = with_centres(AdaFace(2, concentration=1e9), np.eye(2))
    rows = tf.fill([5, 2], 1e3 if quality > 0 else 0.0)
    return lambda cosine: head.target_cosine(cosine, rows)


@pytest.mark.parametrize(
    "target, slope, at_ends",
    [
        # cos(margin) at 1, by the docstring; the slope of the guard, 1, at -1.
        (lambda c: arcface_target(c, 0.5), math.sin(THETA + 0.5), (1, math.cos(0.5))),
        (
            lambda c: CombinedMargin(2, 1.0, 1.5, 0.2, 0.1).target_cosine(c, None),
            1.5 * math.sin(1.5 * THETA + 0.2),
            (0, 0),
        ),
        (of_adaface(-1.0), math.sin(THETA + 0.4), (0, 0)),
        (of_adaface(1.0), math.sin(THETA - 0.4), (0, 0)),
    ],
)
def test_gradient_is_the_formulas_and_finite_at_ends(run_as, target, slope, at_ends):
    # The neighbours of -1 and 1 outside, where rounding takes a normalised product.
    cosines = tf.constant([-1.0000001, -1.0, 0.3, 1.0, 1.0000001])
    value, found = run_as(value_and_gradient(target))(cosines)
    low, high = at_ends
    expected = [low, low, slope / math.sin(THETA), high, high]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert np.isfinite(value).all()


def test_quality_carries_no_gradient(rng):
    # Then the gradient is orthogonal to the embedding: lengthening it changes nothing
    # but the quality.
    head = with_centres(AdaFace(5), np.float32(rng.normal(size=(5, 8))))
    rows = tf.constant(30 * rng.normal(size=(4, 8)), tf.float32)
    _, gradient = value_and_gradient(head.row_losses)(rows, np.int32([0, 1, 2, 3]))
    assert np.abs(gradient).max() > 1e-3
    along = tf.reduce_sum(gradient * rows, axis=1)
    np.testing.assert_allclose(along, np.zeros(4), atol=1e-4)


def test_degenerate_embeddings_stay_finite(run_as):
    head = with_centres(ArcFace(3), np.eye(3))

    def logits_and_gradients(e):
        with tf.GradientTape() as tape:
            tape.watch(e)
            logits = head(e, tf.constant([0, 1]))
        return logits, tape.gradient(logits, [e, head.trainable_variables[0]])

    step = run_as(logits_and_gradients)
    # Zero, equal to the centre, opposite to it, tiny.
    for rows in (np.zeros((2, 3)), np.eye(2, 3), -np.eye(2, 3), np.full((2, 3), 1e-20)):
        for tensor in tf.nest.flatten(step(tf.constant(rows, tf.float32))):
            assert np.all(np.isfinite(tensor.numpy()))


def test_computes_in_float32_under_mixed_precision(rng, mixed_policy):
    embeddings, centres = np.float32(rng.normal(size=(4, 8))), rng.normal(size=(5, 8))
    labels = np.int32([0, 1, 2, 4])
    expected = with_centres(ArcFace(5), centres)(embeddings, labels)
    mixed_policy("mixed_bfloat16")
    head = with_centres(ArcFace(5), centres)
    assert tf.as_dtype(head.centers.dtype) == tf.float32
    logits = head(embeddings, labels)
    assert logits.dtype == tf.float32
    np.testing.assert_allclose(logits, expected, rtol=1e-6)
    assert ArcFace(num_identities=3, dtype="mixed_float16").compute_dtype == "float32"
