import math

import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.heads import CombinedMargin
from ekd_tf.heads import arcface_target
from ekd_tf.heads import cosface_target
from ekd_tf.heads.combined import combined_target


def test_target_computed_by_hand():
    # Twice pi/6 plus pi/6 is a right angle.
    target = combined_target(tf.constant([math.sqrt(3) / 2]), 2.0, math.pi / 6, 0.25)
    np.testing.assert_allclose(target, [-0.25], atol=1e-6)


def test_target_past_pi_keeps_falling_without_a_step():
    # At m1 2, m2 0.3 the angle reaches pi at 1.42; 0.2 beyond it the target is
    # 0.2 below -1.
    theta = (math.pi - 0.3 + 0.2) / 2
    target = combined_target(tf.constant([math.cos(theta)]), 2.0, 0.3, 0.1)
    np.testing.assert_allclose(target, [-1.3], rtol=1e-5)
    theta = np.linspace(0.01, math.pi - 0.01, 400)
    target = combined_target(tf.constant(np.cos(theta), tf.float32), 2.0, 0.3, 0.0)
    steps = np.diff(target)
    assert np.all(steps < 0) and np.all(steps > -0.03)


def test_special_cases_are_the_other_heads():
    cosine = tf.constant(np.cos(np.linspace(0.1, 2.5, 20)), tf.float32)
    np.testing.assert_allclose(
        combined_target(cosine, 1.0, 0.5, 0.0), arcface_target(cosine, 0.5), atol=1e-6
    )
    np.testing.assert_allclose(
        combined_target(cosine, 1.0, 0.0, 0.4), cosface_target(cosine, 0.4), atol=1e-6
    )


def test_gradient_is_finite_and_that_of_the_formula(run_as):
    def gradient(c):
        with tf.GradientTape() as tape:
            tape.watch(c)
            target = combined_target(c, 1.5, 0.2, 0.1)
        return tape.gradient(target, c)

    cosines = tf.constant([-1.0000001, -1.0, 0.3, 1.0, 1.0000001])
    theta = math.acos(0.3)
    slope = 1.5 * math.sin(1.5 * theta + 0.2) / math.sin(theta)
    found = run_as(gradient)(cosines)
    np.testing.assert_allclose(found, [0, 0, slope, 0, 0], rtol=1e-4)


def test_head_places_the_target():
    head = CombinedMargin(3, scale=2.0, margin1=1.0, margin2=math.pi / 6, margin3=0.1)
    head.build((None, 3))
    head.centers.assign(np.eye(3, dtype=np.float32))
    logits = head(np.float32([[3, 4, 0]]), np.int32([0]))
    moved = 0.6 * math.sqrt(3) / 2 - 0.8 / 2 - 0.1
    np.testing.assert_allclose(logits, [[2 * moved, 1.6, 0]], rtol=1e-5, atol=1e-6)


def test_defaults_are_the_papers():
    head = CombinedMargin(num_identities=2)
    assert head.scale == 64.0
    assert (head.margin1, head.margin2, head.margin3) == (1.0, 0.3, 0.2)


def test_config_round_trip():
    head = CombinedMargin(7, margin1=1.2, margin2=0.1, margin3=0.3)
    restored = CombinedMargin.from_config(head.get_config())
    received = (restored.margin1, restored.margin2, restored.margin3)
    assert received == (1.2, 0.1, 0.3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"margin1": 0.0}, r"`margin1` must be in \(0, inf\)"),
        ({"margin2": 28.6}, r"`margin2` must be in \[0, 1.57"),
        ({"margin3": 1.0}, r"`margin3` must be in \[0, 1\)"),
    ],
)
def test_rejects_margins_outside_their_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        CombinedMargin(3, **arguments)
