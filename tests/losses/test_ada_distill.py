import math

import numpy as np
import tensorflow as tf
from toys import two_models
from toys import with_gradient

from ekd_tf.losses import AdaDistillLoss
from ekd_tf.losses.centres import moved_centres


def test_kept_part_computed_by_hand():
    # Agreement 0.6 times closeness 0.8 (the centre's length does not matter); a
    # closeness below 0 counts as 1e-6; so does a disagreement.
    teacher = np.float32([[3.0, 0.0]])
    for student, centre, expected in (
        ([0.6, 0.8], [8.0, 6.0], 0.48),
        ([0.6, 0.8], [-1.0, 0.0], 1e-6),
        ([-1.0, 0.0], [1.0, 0.0], 1e-6),
    ):
        loss = AdaDistillLoss(num_identities=2, teacher_dim=2)
        loss.centres.assign([centre, [0.0, 1.0]])
        batch = np.float32([student]), teacher, np.int32([0])
        _, monitor = loss(*batch, with_monitor=True)
        np.testing.assert_allclose(monitor["ada_distill/keep"], expected, rtol=1e-5)


def test_every_usable_image_of_an_identity_moves_its_centre():
    # Identity 1 keeps 1/2 of (2, 0) for (0, 1) and 1/4 of it for (-1, 0):
    # (1, 1/2) and (-1/4, 0), on average (3/8, 1/4). Identity 0 is not in the batch, and
    # of 3 and 4 one image and none are usable.
    nan = float("nan")
    moved = moved_centres(
        tf.constant([[5.0, 5.0], [2.0, 0.0], [0.0, 0.0], [2.0, 0.0], [0.0, 2.0]]),
        tf.constant([1, 2, 1, 3, 3, 4]),
        tf.constant([[0.0, 1], [1, 0], [-1, 0], [0, 1], [nan, nan], [nan, nan]]),
        tf.constant([0.5, 0.0, 0.25, 0.5, nan, nan]),
        tf.constant([True, True, True, True, False, False]),
    )
    expected = [[5, 5], [0.375, 0.25], [1, 0], [1, 0.5], [0, 2]]
    np.testing.assert_allclose(moved, expected, rtol=1e-6)


def test_a_step_by_hand():
    # A centre not seen before moves to the teacher's row. The student's cosines to both
    # are then 0.6 and 0.8, and the first becomes that of an angle larger by 0.45.
    loss = AdaDistillLoss(num_identities=2, teacher_dim=2)
    loss.centres.assign([[0.0, 0.0], [0.0, 7.0]])
    batch = np.float32([[3.0, 4.0]]), np.float32([[5.0, 0.0]]), np.int32([0])
    value = loss(*batch)["ada_distill"]
    np.testing.assert_allclose(loss.centres, [[1, 0], [0, 7]], atol=1e-5)
    target = math.cos(math.acos(0.6) + 0.45)
    expected = math.log(1 + math.exp(64 * (0.8 - target)))
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_moving_centres_carry_no_gradient(rng):
    student, teacher, labels = two_models(rng, 6)
    loss = AdaDistillLoss(num_identities=4, teacher_dim=5, scale=4.0)
    loss(student, teacher, labels)
    gradients = [
        with_gradient(loss, training=training)(student, teacher, labels)[1]
        for training in (True, False)
    ]
    # The second is on the centres that the first has moved, and leaves them there.
    np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-7)


def test_an_embedding_that_is_not_finite_moves_no_centre(rng):
    student, teacher, labels = two_models(rng, 6)
    loss = AdaDistillLoss(num_identities=4, teacher_dim=5)
    loss(student, teacher, labels)
    before = np.array(loss.centres)
    student[:] = np.nan
    terms = loss(student, teacher, labels)
    assert np.isnan(terms["ada_distill"])
    np.testing.assert_array_equal(loss.centres, before)
