import losses_numpy as reference
import numpy as np
import pytest

from ekd_tf.losses import FitNetLoss


def fitnet(student, teacher):
    return FitNetLoss()(student, teacher)["fitnet"]


def test_value_computed_by_hand():
    # Squares 1, 0, 4 and 9, on average 3.5.
    student = np.float32([[1, 2], [3, 4]])
    teacher = np.float32([[2, 2], [1, 7]])
    np.testing.assert_allclose(fitnet(student, teacher), 3.5, rtol=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 17])
def test_matches_numpy_reference(random_batch, rows):
    student, teacher, _ = random_batch(rows)
    expected = reference.fitnet(student, teacher)
    np.testing.assert_allclose(fitnet(student, teacher), expected, rtol=1e-5)


def test_matches_tface(check_upstream):
    check_upstream(fitnet, "fitnet")


def test_lengths_count(random_batch):
    # All rows scaled by 2: the square of that.
    student, teacher, _ = random_batch(6)
    np.testing.assert_allclose(
        fitnet(2 * student, 2 * teacher), 4 * fitnet(student, teacher), rtol=1e-5
    )
