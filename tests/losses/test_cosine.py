import losses_numpy as reference
import numpy as np
import pytest

from ekd_tf.losses.cosine import CosineLoss
from ekd_tf.losses.cosine import cosine_distance


def test_value_computed_by_hand():
    # Cosines 1, 0 and -3/5: (0 + 1 + 8/5) / 3.
    student = [[2.0, 0.0], [0.0, 1.0], [3.0, 4.0]]
    teacher = [[5.0, 0.0], [7.0, 0.0], [-1.0, 0.0]]
    np.testing.assert_allclose(cosine_distance(student, teacher), 2.6 / 3, rtol=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 17])
def test_matches_numpy_reference(random_batch, rows):
    student, teacher, _ = random_batch(rows)
    expected = reference.cosine(student, teacher)
    np.testing.assert_allclose(cosine_distance(student, teacher), expected, rtol=1e-5)


def test_matches_tface(check_upstream):
    check_upstream(cosine_distance, "cosine_distance")


def test_invariant_to_the_length_of_each_row(rng, random_batch):
    student, teacher, _ = random_batch(6)
    lengths = np.float32(rng.uniform(0.1, 10, (6, 1)))
    np.testing.assert_allclose(
        cosine_distance(student * lengths, teacher / lengths),
        cosine_distance(student, teacher),
        rtol=1e-5,
    )


def test_zero_for_a_scaled_teacher_and_two_for_its_opposite(random_batch):
    student, _, _ = random_batch(6)
    np.testing.assert_allclose(cosine_distance(student, 3 * student), 0, atol=1e-6)
    np.testing.assert_allclose(cosine_distance(student, -student), 2, rtol=1e-6)


def test_term_is_the_function(random_batch):
    student, teacher, _ = random_batch(6)
    terms = CosineLoss()(student, teacher)
    assert list(terms) == ["cosine"]
    np.testing.assert_array_equal(terms["cosine"], cosine_distance(student, teacher))
