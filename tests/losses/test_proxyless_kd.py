import losses_numpy as reference
import numpy as np
import pytest

from ekd_tf.losses import ProxylessKDLoss

CENTRES = np.eye(3, dtype=np.float32)


def test_value_computed_by_hand():
    # Cosines 0.6, 0.8 and 0; cos(theta + m) of the label's at m = pi/6.
    loss = ProxylessKDLoss(CENTRES, margin=np.pi / 6, scale=2.0)
    terms = loss(np.float32([[3, 4, 0]]), np.zeros((1, 3), np.float32), np.int32([0]))
    moved = 0.6 * np.sqrt(3) / 2 - 0.8 / 2
    expected = np.log(np.exp(2 * moved) + np.exp(1.6) + 1) - 2 * moved
    np.testing.assert_allclose(terms["proxyless_kd"], expected, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 17])
def test_matches_numpy_reference(random_batch, rows):
    student, teacher, labels = random_batch(rows, 3, 3)
    labels %= 3
    terms = ProxylessKDLoss(CENTRES)(student, teacher, labels)
    expected = reference.proxyless_kd(student, teacher, labels, CENTRES)
    np.testing.assert_allclose(terms["proxyless_kd"], expected, rtol=1e-4)


def test_teachers_embeddings_do_not_matter(random_batch):
    student, teacher, labels = random_batch(6, 3, 3)
    labels %= 3
    loss = ProxylessKDLoss(CENTRES)
    one, other = loss(student, teacher, labels), loss(student, -teacher, labels)
    assert float(one["proxyless_kd"]) == float(other["proxyless_kd"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"margin": 28.6}, r"`margin` must be in \[0, 1.57"),
        ({"scale": 0.0}, r"`scale` must be in \(0, inf\)"),
    ],
)
def test_rejects_arguments_outside_their_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        ProxylessKDLoss(CENTRES, **arguments)
