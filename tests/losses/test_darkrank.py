import math

import losses_numpy as reference
import numpy as np
import pytest

from ekd_tf.losses import DarkRankLoss
from ekd_tf.losses.darkrank import darkrank


def test_value_computed_by_hand():
    # Student cosines 01: 1/2, 02: 0, 12: -1/2; with alpha 1 and beta 2 scores of -1,
    # -2 and -3. The teacher's nearest first: 0: 1, 2. 1: 0, 2. 2: 1, 0. The last
    # position is certain; the first costs log(1 + e^(other - chosen)):
    # row 0: -2 + 1, row 1: -3 + 1, row 2: -2 + 3.
    h = math.sqrt(3) / 2
    student = np.float32([[1, 0], [0.5, h], [0, -1]])
    student[2] = [0.0, -1.0]
    teacher = np.float32([[1, 0], [0.8, 0.6], [0, 1]])
    cosine_12 = -h
    scores = {"01": -1.0, "02": -2.0, "12": -(2 - 2 * cosine_12)}
    expected = (
        math.log1p(math.exp(scores["02"] - scores["01"]))
        + math.log1p(math.exp(scores["12"] - scores["01"]))
        + math.log1p(math.exp(scores["02"] - scores["12"]))
    ) / 3
    value = darkrank(student, teacher, alpha=1.0, beta=2.0)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("length", [2, 3, 4])
@pytest.mark.parametrize("rows", [2, 3, 4, 17])
def test_matches_numpy_reference(random_batch, rows, length):
    student, teacher, _ = random_batch(rows, 5, 8)
    expected = reference.darkrank(student, teacher, length=length)
    value = darkrank(student, teacher, length=length)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)


def test_matches_tface(check_upstream):
    check_upstream(darkrank, "darkrank")


def test_a_repeated_image_is_a_neighbour(random_batch):
    # Its nearest row is not itself; leaving the nearest out would drop the repeat.
    student, teacher, _ = random_batch(6)
    teacher[3] = teacher[0]
    order = [j for j in range(6) if j != 0]
    assert min(order, key=lambda j: np.linalg.norm(teacher[0] - teacher[j])) == 3
    expected = reference.darkrank(student, teacher)
    np.testing.assert_allclose(darkrank(student, teacher), expected, rtol=1e-4)


def test_invariant_to_the_length_of_each_row(rng, random_batch):
    student, teacher, _ = random_batch(7)
    lengths = np.float32(rng.uniform(0.1, 10, (7, 1)))
    np.testing.assert_allclose(
        darkrank(student * lengths, teacher / lengths),
        darkrank(student, teacher),
        rtol=1e-4,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0.0}, r"`alpha` must be in \(0, inf\)"),
        ({"beta": 1.5}, r"`beta` must be in \[2, inf\)"),
        ({"length": 1}, r"`length` must be in \[2, inf\)"),
    ],
)
def test_rejects_arguments_outside_their_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        DarkRankLoss(**arguments)
