import eager
import losses_numpy as reference
import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.losses import EKDCentresLoss
from ekd_tf.mining.miner import PairMiner

# Calls of few rows, which take less than a trace.
pytestmark = pytest.mark.usefixtures("op_by_op")
DIM, IDENTITIES = 6, 40


def make(rng, **kwargs):
    centres = np.float32(rng.normal(size=(IDENTITIES, DIM)))
    return EKDCentresLoss(centres, miner=PairMiner(fprs=[0.1]), **kwargs), centres


def batch_of(rng, labels):
    student, teacher = np.float32(rng.normal(size=(2, len(labels), DIM)))
    return student, teacher, np.int32(labels)


def test_matches_loops_over_pairs_of_the_batch_and_all_centres(rng):
    loss, centres = make(rng, momentum=1.0, sampled=0)
    student, teacher, labels = batch_of(rng, [3, 3, 8, 9, 1, 1, 1, 20])
    terms = loss(student, teacher, labels)
    positive, negative = reference.ekd_cosines(
        np.concatenate([student, centres]),
        np.concatenate([teacher, centres]),
        np.concatenate([labels, np.arange(IDENTITIES)]),
        batch=len(labels),
    )
    # One of each image with its centre, and those within the batch.
    assert len(positive) == 8 + 1 + 3
    thresholds = reference.ekd_thresholds(negative, [0.1])
    expected = reference.ekd(positive, negative, thresholds, temperature=0.1)
    # Thresholds are read from bins of 2^-11.
    np.testing.assert_allclose(list(terms.values()), expected, rtol=2e-2)
    assert list(terms) == ["ekd_centres/positive", "ekd_centres/negative"]


def test_draws_centres_beside_those_of_the_batch(rng):
    loss, _ = make(rng, sampled=20)
    galleries = []
    for _ in range(3):
        galleries.append(
            loss._centre_rows(tf.constant([0, 0, 1])).labels.numpy().tolist()
        )
        _, found = loss(*batch_of(rng, [0, 0, 1]), with_monitor=True)
        assert found["pairs/positive"] == 1 + 3
        # Two within the batch, and each image with all of 23 centres but its own.
        assert found["pairs/negative"] == 2 + 3 * 22
        assert len(set(galleries[-1])) == 23 and {0, 1} <= set(galleries[-1])
    assert galleries[0] != galleries[1] != galleries[2]


@pytest.mark.parametrize("xla", [False, True])
def test_draws_the_same_again_in_a_run_that_is_repeated(rng, xla):
    loss, _ = make(rng, sampled=5)
    start = [np.array(variable) for variable in loss.variables]
    batch, runs = [tf.constant(x) for x in batch_of(rng, [0, 0, 1])], []
    with eager.op_by_op(not xla):
        step = tf.function(loss, jit_compile=True) if xla else loss
        for _ in range(2):
            for variable, value in zip(loss.variables, start):
                variable.assign(value)
            runs.append([float(sum(step(*batch).values())) for _ in range(3)])
    assert runs[0] == runs[1] and min(runs[0]) > 0


@pytest.mark.parametrize("xla", [False, True])
def test_a_label_without_a_centre_shows_in_the_loss(rng, xla):
    loss, _ = make(rng, sampled=0)
    with eager.op_by_op(not xla):
        step = tf.function(loss, jit_compile=True) if xla else loss
        for label, known in ((IDENTITIES - 1, True), (IDENTITIES, False), (-1, False)):
            terms = step(*batch_of(rng, [0, 0, label]))
            assert np.isfinite(list(terms.values())).tolist() == [known] * 2


def test_an_image_alone_learns_through_the_projection(rng):
    loss, _ = make(rng, student_dim=3)
    student = tf.constant(rng.normal(size=(2, 3)), tf.float32)
    _, teacher, labels = batch_of(rng, [5, 7])
    kernel = loss.projection.kernel
    with tf.GradientTape() as tape:
        tape.watch(student)
        total = sum(loss(student, teacher, labels).values())
    gradients = tape.gradient(total, [student, tf.convert_to_tensor(kernel)])
    assert float(total) > 0 and np.abs(gradients[0]).max() > 0
    assert [tuple(v.shape) for v in loss.trainable_variables] == [(3, DIM)]


def test_config_keeps_every_argument(rng):
    changed = {"temperature": 0.2, "positive_weight": 3.0, "negative_weight": 4.0}
    loss, _ = make(rng, student_dim=3, momentum=0.5, sampled=7, **changed)
    twin = EKDCentresLoss.from_config(loss.get_config())
    assert twin.get_config() == loss.get_config()
    assert (twin.sampled, twin.ekd.temperature, twin.ekd.momentum) == (7, 0.2, 0.5)
