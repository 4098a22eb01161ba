import losses_numpy as reference
import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.losses import TripletDistillationLoss
from ekd_tf.losses import triplet_distillation as module
from ekd_tf.losses.triplet_distillation import triplet_distillation


def test_value_computed_by_hand():
    # Squared distances are 2 - 2 cos. Rows 0 and 1 are one identity, so two triplets,
    # with anchors 0 and 1. Student cosines 01: 0.6, 02: 0.8, 12: 0.96; teacher 01: 1,
    # 02 and 12: 0. The teacher's gap is 2 in both, the largest: margin 0.5.
    # Anchor 0: 0.8 - 0.4 + 0.5, anchor 1: 0.8 - 0.08 + 0.5.
    student = np.float32([[1, 0], [0.6, 0.8], [0.8, 0.6]])
    teacher = np.float32([[1, 0], [2, 0], [0, 3]])
    value = triplet_distillation(student, teacher, tf.constant([4, 4, 5]))
    np.testing.assert_allclose(value, (0.9 + 1.22) / 2, rtol=1e-5)


def test_margin_grows_with_the_teachers_gap():
    # Collapsed student: the loss is the mean margin. Teacher gaps for anchor 0:
    # negatives at cosines 0 and -1, squared distances 2 and 4; largest 4.
    student = np.ones((4, 2), np.float32)
    teacher = np.float32([[1, 0], [1, 0], [0, 1], [-1, 0]])
    labels = tf.constant([0, 0, 1, 2])
    value = triplet_distillation(student, teacher, labels)
    np.testing.assert_allclose(value, (0.35 + 0.5) / 2, rtol=1e-5)


@pytest.mark.parametrize("rows", [6, 17])
def test_matches_numpy_reference(rng, random_batch, rows):
    student, teacher, labels = random_batch(rows, 5, 8)
    image_ids = np.int32(rng.integers(0, rows // 2, rows))
    for images in (None, image_ids):
        expected = reference.triplet_distillation(
            student, teacher, labels, images, 0.1, 0.6
        )
        value = triplet_distillation(student, teacher, labels, images, 0.1, 0.6)
        np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_two_views_of_one_image_are_no_positive_pair(random_batch):
    student, teacher, _ = random_batch(4)
    loss = TripletDistillationLoss()
    labels, image_ids = np.int32([0, 0, 1, 2]), np.int32([7, 7, 8, 9])
    assert float(loss(student, teacher, labels)["triplet_distillation"]) > 0
    terms = loss(student, teacher, labels, image_ids)
    assert float(terms["triplet_distillation"]) == 0


def test_blocks_give_what_all_triplets_at_once_do(monkeypatch, random_batch):
    student, teacher, labels = map(tf.constant, random_batch(7))

    def step(student, teacher, labels):
        with tf.GradientTape() as tape:
            tape.watch(student)
            value = triplet_distillation(student, teacher, labels)
        return value, tape.gradient(value, student)

    expected, expected_gradient = step(student, teacher, labels)
    # Two anchors at a time: the last block is half empty.
    monkeypatch.setattr(module, "MAX_TRIPLETS", 2 * 49)
    value, gradient = tf.function(step, jit_compile=True)(student, teacher, labels)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-7)


def test_zero_when_the_student_separates_by_more_than_the_margin(random_batch):
    _, teacher, _ = random_batch(4)
    student = np.float32([[1, 0], [1, 0], [-1, 0], [-1, 0]])
    value = triplet_distillation(student, teacher, tf.constant([0, 0, 1, 1]))
    assert float(value) == 0
