import losses_numpy as reference
import numpy as np
import pytest

from ekd_tf.losses import ShrinkTeaNetLoss

CENTRES = np.eye(3, dtype=np.float32)


def test_terms_computed_by_hand():
    # Cosine of student and teacher 0; the student lies on centre 0, its label's.
    loss = ShrinkTeaNetLoss(CENTRES, angular_weight=3.0, classifier_weight=5.0, scale=2)
    terms = loss(np.float32([[7, 0, 0]]), np.float32([[0, 2, 0]]), np.int32([0]))
    assert list(terms) == ["shrinkteanet/angular", "shrinkteanet/classifier"]
    classified = np.log(np.exp(2) + 2) - 2
    np.testing.assert_allclose(list(terms.values()), [3, 5 * classified], rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 17])
def test_matches_numpy_reference(random_batch, rows):
    student, teacher, labels = random_batch(rows, 3, 3)
    labels %= 3
    total = sum(ShrinkTeaNetLoss(CENTRES)(student, teacher, labels).values())
    expected = reference.shrinkteanet(student, teacher, labels, CENTRES)
    np.testing.assert_allclose(total, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"angular_weight": -1.0}, r"`angular_weight` must be in \[0, inf\)"),
        ({"classifier_weight": -1.0}, r"`classifier_weight` must be in \[0, inf\)"),
        ({"scale": 0.0}, r"`scale` must be in \(0, inf\)"),
    ],
)
def test_rejects_arguments_outside_their_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        ShrinkTeaNetLoss(CENTRES, **arguments)
