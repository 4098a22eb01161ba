import losses_numpy as reference
import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.heads import ArcFace
from ekd_tf.keras_compat import tf_variable
from ekd_tf.losses import KDLoss
from ekd_tf.losses.kd import kd_divergence


@pytest.fixture
def centres(rng):
    return np.float32(rng.normal(size=(6, 5)))


def head_over(identities, dim, rng):
    head = ArcFace(num_identities=identities)
    head.build((None, dim))
    head.centers.assign(rng.normal(size=head.centers.shape))
    return head


def test_divergence_computed_by_hand():
    # At temperature 2 the odds are e^0 = 1 and 3: p = (3/4, 1/4), q = (1/2, 1/2).
    student = tf.constant([[0.0, 0.0]])
    teacher = tf.constant([[2 * np.log(3.0), 0.0]], tf.float32)
    expected = 4 * (0.75 * np.log(1.5) + 0.25 * np.log(0.5))
    np.testing.assert_allclose(
        kd_divergence(student, teacher, 2.0), expected, rtol=1e-5
    )


def test_divergence_matches_tface(check_upstream):
    check_upstream(kd_divergence, "simple_kd")


@pytest.mark.parametrize("rows", [1, 2, 17])
def test_matches_numpy_reference(random_batch, centres, rows):
    student, teacher, labels = random_batch(rows)
    loss = KDLoss(centres, temperature=2.0, scale=8.0)
    expected = reference.kd(student, teacher, labels, centres, 2.0, 8.0)
    np.testing.assert_allclose(loss(student, teacher)["kd"], expected, rtol=1e-4)


def test_students_classifier_is_that_of_its_head(rng, random_batch, centres):
    head = head_over(6, 3, rng)
    student, teacher, labels = random_batch(4, student_dim=3)
    own = np.array(head.centers)
    expected = reference.kd(student, teacher, labels, centres, own=own)
    value = KDLoss(centres, head=head)(student, teacher)["kd"]
    np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_head_learns_and_stays_the_trainers(rng, random_batch, centres):
    head = head_over(6, 3, rng)
    loss = KDLoss(centres, head=head, student_dim=3)
    assert [tuple(v.shape) for v in loss.variables] == [(6, 5)]
    student, teacher, _ = random_batch(4, student_dim=3)
    variable = tf_variable(head.centers)
    with tf.GradientTape() as tape:
        value = loss(student, teacher)["kd"]
    assert np.abs(tf.convert_to_tensor(tape.gradient(value, variable))).max() > 0


def test_zero_for_a_student_that_is_a_scaled_teacher(random_batch, centres):
    _, teacher, _ = random_batch(5)
    value = KDLoss(centres)(3 * teacher, teacher)["kd"]
    np.testing.assert_allclose(value, 0, atol=1e-4)


def test_rejects_a_head_over_other_identities(rng, centres):
    with pytest.raises(ValueError, match="the same identities. Received: 7 and 6"):
        KDLoss(centres, head=head_over(7, 3, rng))


@pytest.mark.parametrize("argument", ["temperature", "scale"])
def test_rejects_arguments_outside_their_range(centres, argument):
    with pytest.raises(ValueError, match=rf"`{argument}` must be in \(0, inf\)"):
        KDLoss(centres, **{argument: 0.0})
