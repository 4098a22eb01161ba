"""The margin softmax and the check of labels before it."""

import math

import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.heads.softmax import check_labels
from ekd_tf.heads.softmax import margin_softmax_loss


def cross_entropy_np(logits, labels):
    """The formula as loops over rows in float64."""
    losses = []
    for row, label in zip(logits.astype(np.float64), labels):
        top = row.max()
        total = sum(math.exp(value - top) for value in row)
        losses.append(math.log(total) + top - row[label])
    return np.array(losses)


def test_value_computed_by_hand():
    # Odds 3 : 1 for class 0: losses log(4/3) and log 4.
    logits = np.float32([[math.log(3.0), 0.0]] * 2)
    losses = margin_softmax_loss(logits, np.int32([0, 1]))
    np.testing.assert_allclose(losses, [math.log(4 / 3), math.log(4)], rtol=1e-6)


def test_matches_numpy_reference(rng, run_as):
    logits = (64 * rng.uniform(-1, 1, (17, 9))).astype(np.float32)
    labels = rng.integers(0, 9, 17).astype(np.int32)
    losses = run_as(margin_softmax_loss)(tf.constant(logits), tf.constant(labels))
    assert losses.shape == (17,)
    np.testing.assert_allclose(
        losses, cross_entropy_np(logits, labels), rtol=1e-5, atol=1e-5
    )


def test_gradient_is_softmax_less_one_hot(rng):
    logits = tf.constant(rng.normal(size=(3, 4)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = tf.reduce_sum(margin_softmax_loss(logits, np.int32([0, 3, 1])))
    odds = np.exp(logits.numpy())
    expected = odds / odds.sum(axis=1, keepdims=True) - np.eye(4)[[0, 3, 1]]
    np.testing.assert_allclose(tape.gradient(loss, logits), expected, atol=1e-6)


def test_logits_at_the_ends_of_the_scale_stay_finite(run_as):
    losses = run_as(margin_softmax_loss)(
        tf.constant([[64.0, -64.0], [64.0, -64.0]]), tf.constant([0, 1])
    )
    np.testing.assert_allclose(losses, [0.0, 128.0], atol=1e-6)


def test_half_precision_logits_are_taken_in_float32():
    losses = margin_softmax_loss(np.float16([[60.0, 60.0]]), np.int32([0]))
    assert losses.dtype == tf.float32
    np.testing.assert_allclose(losses, [math.log(2)], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_labels_inside_pass(dtype):
    check_labels(dtype([0, 4, 2]), 5)
    check_labels(dtype([[0], [4]]), 5)
    check_labels(dtype([]), 5)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 5, 9, 1], "label 9 at position 2; 2 of 4 labels are outside."),
        ([5], "label 5 at position 0; 1 of 1 labels are outside."),
        ([4, -1], "label -1 at position 1; 1 of 2 labels are outside."),
        ([7, -100], "label -100 at position 1; 2 of 2 labels are outside."),
    ],
    ids=["two above", "just above", "just below", "far below"],
)
def test_names_the_worst_label_outside(labels, words):
    with pytest.raises(ValueError) as error:
        check_labels(labels, 5)
    assert str(error.value) == f"`labels` must be in [0, 5). Received: {words}"


def test_rejects_labels_that_are_no_integers():
    with pytest.raises(ValueError, match="`labels` must be integers.*float32"):
        check_labels(np.float32([0.0, 1.0]), 5)


def test_rejects_a_head_without_identities():
    with pytest.raises(ValueError, match=r"`num_identities` must be in \[1, inf\)"):
        check_labels(np.int32([0]), 0)
