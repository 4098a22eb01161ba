import math

import losses_numpy as reference
import numpy as np
import pytest

from ekd_tf.losses import CCKDLoss
from ekd_tf.losses.cckd import correlation_matrix
from ekd_tf.losses.sp import similarity_preserving


def cckd(student, teacher, **arguments):
    return CCKDLoss(**arguments)(student, teacher)["cckd"]


def test_value_computed_by_hand():
    # Off the diagonal cosines 0 and 1: with gamma 1/2 and order 2 the kernels are
    # e^-1 and e^-1 (1 + 1 + 1/2). Two of four entries are off by e^-1 3/2.
    student, teacher = np.eye(2, dtype=np.float32), np.ones((2, 2), np.float32)
    expected = 2 * (1.5 / math.e) ** 2 / 4
    np.testing.assert_allclose(cckd(student, teacher, gamma=0.5), expected, rtol=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 17])
def test_matches_numpy_reference(random_batch, rows):
    student, teacher, _ = random_batch(rows, 5, 8)
    expected = reference.cckd(student, teacher)
    np.testing.assert_allclose(cckd(student, teacher), expected, rtol=1e-4, atol=1e-12)


def test_kernel_tends_to_the_gaussian(random_batch):
    rows = reference.unit(random_batch(6)[0])
    squares = ((rows[:, None] - rows[None, :]) ** 2).sum(axis=2)
    kernel = correlation_matrix(rows, gamma=0.4, orders=12)
    np.testing.assert_allclose(kernel, np.exp(-0.4 * squares), rtol=1e-5)


def test_tface_stops_one_order_short(check_upstream):
    check_upstream(lambda s, t: cckd(s, t, orders=1), "cc")


def test_order_one_is_a_share_of_sp(random_batch):
    student, teacher, _ = random_batch(9)
    share = (0.8 * math.exp(-0.8)) ** 2
    assert round(share, 4) == 0.1292
    np.testing.assert_allclose(
        cckd(student, teacher, orders=1),
        share * similarity_preserving(student, teacher),
        rtol=1e-5,
    )
    paper = float(cckd(student, teacher))
    assert abs(paper / float(similarity_preserving(student, teacher)) - share) > 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma": 0.0}, r"`gamma` must be in \(0, inf\)"),
        ({"orders": 0}, r"`orders` must be in \[1, inf\)"),
    ],
)
def test_rejects_arguments_outside_their_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        CCKDLoss(**arguments)
