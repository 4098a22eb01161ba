import losses_numpy as reference
import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.losses import MarginDistillationLoss
from ekd_tf.losses.margin_distillation import margins_of_teacher

CENTRES = np.eye(3, dtype=np.float32)


def test_margins_computed_by_hand():
    # The largest cosine 0.8 has the widest margin, half of it half of the way.
    margins = margins_of_teacher(tf.constant([0.8, 0.4, 0.0, -0.5]), 0.2, 0.6)
    np.testing.assert_allclose(margins, [0.6, 0.4, 0.2, 0.2], rtol=1e-6)


def test_margins_where_no_cosine_is_positive():
    margins = margins_of_teacher(tf.constant([-0.1, 0.0]), 0.2, 0.6)
    np.testing.assert_allclose(margins, [0.2, 0.2], rtol=1e-6)


def test_loss_computed_by_hand():
    # The only image has the widest margin, 0.55. The student is on its centre.
    loss = MarginDistillationLoss(CENTRES, scale=2.0)
    terms, monitor = loss(
        np.float32([[5, 0, 0]]),
        np.float32([[1, 1, 0]]),
        np.int32([0]),
        with_monitor=True,
    )
    expected = np.log(1 + 2 * np.exp(-2 * np.cos(0.55)))
    np.testing.assert_allclose(terms["margin_distillation"], expected, rtol=1e-4)
    np.testing.assert_allclose(monitor["margin_distillation/margin"], 0.55, rtol=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 17])
def test_matches_numpy_reference(random_batch, rows):
    student, teacher, labels = random_batch(rows, 3, 3)
    labels %= 3
    teacher[0] = CENTRES[labels[0]]
    terms = MarginDistillationLoss(CENTRES)(student, teacher, labels)
    expected = reference.margin_distillation(student, teacher, labels, CENTRES)
    np.testing.assert_allclose(terms["margin_distillation"], expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_margin": -0.1}, r"`min_margin` must be in \[0, 0.55\]"),
        ({"min_margin": 0.6}, r"`min_margin` must be in \[0, 0.55\]"),
        ({"max_margin": 1.6}, r"`max_margin` must be in \[0, 1.57"),
        ({"scale": 0.0}, r"`scale` must be in \(0, inf\)"),
    ],
)
def test_rejects_arguments_outside_their_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        MarginDistillationLoss(CENTRES, **arguments)
