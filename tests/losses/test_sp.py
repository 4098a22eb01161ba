import losses_numpy as reference
import numpy as np
import pytest

from ekd_tf.losses import SPLoss
from ekd_tf.losses.sp import similarity_preserving


def test_cosine_value_computed_by_hand():
    # Cosines off the diagonal: 0 and 3/5; two ordered pairs of four entries.
    student, teacher = [[1.0, 0.0], [0.0, 9.0]], [[1.0, 0.0], [3.0, 4.0]]
    np.testing.assert_allclose(
        similarity_preserving(student, teacher), 2 * 0.36 / 4, rtol=1e-6
    )


def test_row_normalized_value_computed_by_hand():
    # Gram matrices [[1, 0], [0, 1]] and [[16, 12], [12, 9]], whose rows have lengths
    # 20 and 15: [[4/5, 3/5], [4/5, 3/5]]. Off by 1/5, 3/5, 4/5, 2/5.
    student, teacher = [[1.0, 0.0], [0.0, 1.0]], [[4.0, 0.0], [3.0, 0.0]]
    value = similarity_preserving(student, teacher, gram="row_normalized")
    np.testing.assert_allclose(value, (1 + 9 + 16 + 4) / 25 / 4, rtol=1e-6)


@pytest.mark.parametrize("gram", ["cosine", "row_normalized"])
@pytest.mark.parametrize("rows", [1, 2, 17])
def test_matches_numpy_reference(random_batch, rows, gram):
    student, teacher, _ = random_batch(rows, 5, 8)
    expected = reference.sp(student, teacher, gram=gram)
    value = similarity_preserving(student, teacher, gram)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-12)


def test_cosine_form_matches_tface(check_upstream):
    check_upstream(similarity_preserving, "similarity_perserving")


def test_zero_for_a_rotated_teacher(rng, random_batch):
    student, _, _ = random_batch(6)
    rotation, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    for gram in ("cosine", "row_normalized"):
        teacher = np.float32(3 * student @ rotation)
        value = similarity_preserving(student, teacher, gram)
        np.testing.assert_allclose(value, 0, atol=1e-10)


def test_only_the_cosine_form_ignores_the_length_of_each_row(random_batch):
    student, teacher, _ = random_batch(6)
    longer = student * np.float32(np.arange(1, 7))[:, None]
    value, changed = (
        similarity_preserving(x, teacher, "cosine") for x in (student, longer)
    )
    np.testing.assert_allclose(value, changed, rtol=1e-4)
    value, changed = (
        similarity_preserving(x, teacher, "row_normalized") for x in (student, longer)
    )
    assert abs(float(value) - float(changed)) > 0.01


def test_row_normalized_layer_is_that_form(random_batch):
    student, teacher, _ = random_batch(6)
    term = SPLoss(gram="row_normalized")(student, teacher)["sp"]
    expected = similarity_preserving(student, teacher, "row_normalized")
    np.testing.assert_array_equal(term, expected)


def test_rejects_another_gram():
    with pytest.raises(ValueError, match="must be one of 'cosine', 'row_normalized'"):
        SPLoss(gram="euclidean")
