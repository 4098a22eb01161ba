"""CosFace against hand values, loops, and central differences."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.heads.cosface import CosFace
from ekd_tf.heads.cosface import cosface_target


def cosface_np(embeddings, centers, labels, scale, margin):
    """The formula as loops over entries in float64."""
    logits = np.zeros((len(embeddings), centers.shape[1]))
    for i, row in enumerate(embeddings.astype(np.float64)):
        for j, center in enumerate(centers.T.astype(np.float64)):
            cosine = row @ center / np.linalg.norm(row) / np.linalg.norm(center)
            logits[i, j] = scale * (cosine - (margin if j == labels[i] else 0.0))
    return logits


def head_with(centers, **kwargs):
    head = CosFace(num_identities=centers.shape[1], **kwargs)
    head.build((None, centers.shape[0]))
    head.centers.assign(centers.T)
    return head


def test_value_computed_by_hand():
    # (3, 4) has cosines 0.6 and 0.8 to the axes: 10 (0.6 - 0.1) = 5 and 10 * 0.8.
    head = head_with(np.eye(2, dtype=np.float32), scale=10.0, margin=0.1)
    logits = head(np.float32([[3.0, 4.0]]), np.int32([0]))
    np.testing.assert_allclose(logits, [[5.0, 8.0]], rtol=1e-6)


@pytest.mark.parametrize("batch", [1, 2, 17])
def test_matches_numpy_reference(rng, run_as, batch):
    embeddings = rng.normal(size=(batch, 8)).astype(np.float32)
    centers = rng.normal(size=(8, 11)).astype(np.float32)
    labels = rng.integers(0, 11, batch).astype(np.int32)
    head = head_with(centers)
    logits = run_as(lambda e, y: head(e, y))(embeddings, labels)
    expected = cosface_np(embeddings, centers, labels, 64.0, 0.4)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_margin_has_unit_slope(run_as):
    def gradient(cosine):
        with tf.GradientTape() as tape:
            tape.watch(cosine)
            target = cosface_target(cosine, 0.4)
        return target, tape.gradient(target, cosine)

    target, slope = run_as(gradient)(tf.constant([-1.0, 0.0, 1.0]))
    np.testing.assert_allclose(target, [-1.4, -0.4, 0.6], rtol=1e-6)
    np.testing.assert_array_equal(slope, [1.0, 1.0, 1.0])


def test_gradient_matches_central_differences(rng):
    embeddings = rng.normal(size=(3, 4))
    centers = rng.normal(size=(4, 5))
    labels = np.int32([0, 1, 1])
    weights = rng.normal(size=(3, 5))
    head = head_with(centers.astype(np.float32), scale=2.0)
    inputs = tf.constant(embeddings, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(tf.cast(weights, tf.float32) * head(inputs, labels))
    gradient = tape.gradient(loss, inputs)
    expected = np.zeros_like(embeddings)
    for index in np.ndindex(expected.shape):
        sides = []
        for step in (1e-6, -1e-6):
            moved = embeddings.copy()
            moved[index] += step
            logits = cosface_np(moved, centers, labels, 2.0, 0.4)
            sides.append(np.sum(weights * logits))
        expected[index] = (sides[0] - sides[1]) / 2e-6
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_computes_in_float32_under_mixed_precision(rng, mixed_policy, policy):
    embeddings = rng.normal(size=(4, 8)).astype(np.float32)
    centers = rng.normal(size=(8, 5)).astype(np.float32)
    labels = np.int32([0, 1, 2, 4])
    mixed_policy(policy)
    logits = head_with(centers)(embeddings, labels)
    assert logits.dtype == tf.float32
    expected = cosface_np(embeddings, centers, labels, 64.0, 0.4)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_config_round_trip():
    head = CosFace(num_identities=7, scale=30.0, margin=0.3, name="margin")
    restored = CosFace.from_config(head.get_config())
    assert restored.num_identities == 7
    assert restored.scale == 30.0
    assert restored.margin == 0.3
    assert restored.name == "margin"


def test_registered_under_the_package():
    assert keras.saving.get_registered_name(CosFace) == "ekd_tf>CosFace"


def test_defaults_are_the_reference_configurations():
    head = CosFace(num_identities=2)
    assert (head.scale, head.margin) == (64.0, 0.4)


@pytest.mark.parametrize("margin", [-0.1, 1.0, 35.0, float("nan")])
def test_rejects_margin_that_is_no_cosine(margin):
    with pytest.raises(ValueError, match=r"`margin` must be in \[0, 1\)\. Received: "):
        CosFace(num_identities=3, margin=margin)
