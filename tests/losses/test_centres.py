import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.losses import CentreLoss
from ekd_tf.losses import ProxylessKDLoss
from ekd_tf.losses.centres import margin_cross_entropy

CENTRES = np.float32([[3, 4], [0, -2], [0, 0]])


def test_centres_are_of_unit_length_and_frozen():
    loss = CentreLoss(CENTRES)
    np.testing.assert_allclose(loss.centres, [[0.6, 0.8], [0, -1], [0, 0]], rtol=1e-6)
    assert len(loss.non_trainable_variables) == 1 and not loss.trainable_variables
    assert (loss.num_identities, loss.teacher_dim) == (3, 2)


def test_cosines_computed_by_hand():
    cosines = CentreLoss(CENTRES).cosines(tf.constant([[5.0, 0.0], [0.0, 0.1]]))
    np.testing.assert_allclose(cosines, [[0.6, 0, 0], [0.8, -1, 0]], rtol=1e-6)


def test_own_centres_are_the_rows_of_the_labels():
    own = CentreLoss(CENTRES).own_centres(tf.constant([1, 1, 0]))
    np.testing.assert_allclose(own, [[0, -1], [0, -1], [0.6, 0.8]], rtol=1e-6)


def test_cross_entropy_computed_by_hand():
    # Logits 2 (1 - 1/2, 0) = (1, 0) and 2 (0, 1/2 - 1/2) = (0, 0).
    value = margin_cross_entropy(
        tf.constant([[1.0, 0.0], [0.0, 0.5]]),
        tf.constant([0, 1]),
        2.0,
        lambda cosine: cosine - 0.5,
    )
    expected = (np.log(1 + np.exp(-1)) + np.log(2)) / 2
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_loss_is_no_number_until_saved_centres_are_restored(tmp_path):
    loss = ProxylessKDLoss(CENTRES)
    batch = np.ones((2, 2), np.float32), np.ones((2, 2), np.float32), np.int32([0, 1])
    other = ProxylessKDLoss.from_config(loss.get_config())
    assert np.isnan(other(*batch)["proxyless_kd"])
    path = tf.train.Checkpoint(loss=loss).write(str(tmp_path / "loss"))
    tf.train.Checkpoint(loss=other).read(path).assert_consumed()
    assert float(other(*batch)["proxyless_kd"]) == float(loss(*batch)["proxyless_kd"])


@pytest.mark.parametrize("sizes", [{}, {"num_identities": 3}, {"teacher_dim": 2}])
def test_says_what_centres_are_when_they_are_missing(sizes):
    with pytest.raises(ValueError) as error:
        ProxylessKDLoss(**sizes)
    assert str(error.value) == (
        "ProxylessKDLoss needs `centres`, float32 (num_identities, teacher_dim): the "
        "teacher's mean embedding of each identity."
    )


@pytest.mark.parametrize(
    "centres", [np.zeros(3), np.zeros((1, 3)), np.zeros((2, 2, 2))]
)
def test_rejects_centres_that_are_no_matrix_of_identities(centres):
    with pytest.raises(
        ValueError, match="`centres` must be .num_identities, teacher_d"
    ):
        CentreLoss(centres)


def test_rejects_centres_that_are_not_finite():
    centres = np.zeros((5, 2))
    centres[[2, 4], 1] = np.nan, np.inf
    with pytest.raises(ValueError, match="2 rows that are not, the first is 2"):
        CentreLoss(centres)


def test_rejects_embeddings_of_another_size_than_the_centres():
    with pytest.raises(ValueError, match="centres of size 2.*embeddings of size 3"):
        CentreLoss(CENTRES).cosines(tf.ones((1, 3)))
