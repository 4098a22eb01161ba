import functools

import numpy as np
import pytest
import tensorflow as tf
from losses_numpy import mined_pairs
from losses_numpy import unit
from refusals import refused
from toys import two_models
from toys import value_and_gradient

from ekd_tf.mining import miner as layout
from ekd_tf.mining.miner import DEFAULT_FPRS
from ekd_tf.mining.miner import NO_ROW
from ekd_tf.mining.miner import ExtraRows
from ekd_tf.mining.miner import PairMiner
from ekd_tf.mining.miner import Pairs
from ekd_tf.mining.miner import with_gradient

op_by_op = pytest.mark.usefixtures("op_by_op")

# Float32 cosines of short rows are off by about as much.
EXACT = 5e-7


batch_of = functools.partial(two_models, student_dim=6, teacher_dim=9)


def rows_of(pairs):
    rows = np.sort(pairs.rows.numpy(), axis=1)
    found = {tuple(pair) for pair in rows}
    assert len(found) == len(rows)
    return found


def check(
    mined, student, teacher, labels, images=None, fprs=DEFAULT_FPRS, k=2000, batch=None
):
    """Compares all that was mined with loops over pairs.

    Of `batch` rows and of each of them with the rows of a memory behind.
    """
    cosines = [unit(x) @ unit(x).T for x in (student, teacher)]
    positive, negative = mined_pairs(labels, images, batch)
    assert rows_of(mined.positive) == set(positive)
    negative = [pair for pair in negative if labels[pair[1]] != NO_ROW]
    negative = [[of_model[pair] for of_model in cosines] for pair in negative]
    negative.sort(reverse=True)
    assert int(mined.total_negatives) == len(negative)
    assert len(rows_of(mined.negative)) == min(k, len(negative))
    # Which of equally hard ones is not said.
    hardest = [pair[0] for pair in negative[:k]]
    np.testing.assert_allclose(mined.negative.student, hardest, rtol=0, atol=EXACT)
    for pairs in (mined.positive, mined.negative):
        i, j = pairs.rows.numpy().T
        for of_model, found in zip(cosines, pairs[1:]):
            np.testing.assert_allclose(found, of_model[i, j], rtol=0, atol=EXACT)
    for column, model in enumerate((mined.student, mined.teacher)):
        assert int(tf.reduce_sum(model.histogram)) == len(negative)
        if negative:
            ordered = sorted((pair[column] for pair in negative), reverse=True)
            expected = [ordered[int(len(ordered) * fpr + 1e-9)] for fpr in fprs]
            np.testing.assert_allclose(model.thresholds, expected, rtol=0, atol=EXACT)


@op_by_op
def test_mined_pairs_computed_by_hand():
    # Student cosines 01: 0.6, 02: 0, 03: -1, 12: 0.8, 13: -0.6, 23: 0. Rows 0 and 1 are
    # one identity; of the five negatives 0.8 is the hardest, and the two zeros tie.
    student = np.float32([[2, 0], [3, 4], [0, 1], [-7, 0]])
    teacher = np.float32([[1, 0], [1, 0], [0, 3], [0, 2]])
    miner = PairMiner(fprs=[0.2, 0.5, 0.8], num_negatives=2)
    mined = miner(student, teacher, np.int32([4, 4, 6, 9]))
    np.testing.assert_array_equal(mined.positive.rows, [[0, 1]])
    np.testing.assert_allclose(mined.positive.student, [0.6], atol=EXACT)
    assert mined.total_negatives == 5
    assert tuple(mined.negative.rows[0].numpy()) == (1, 2)
    assert tuple(mined.negative.rows[1].numpy()) in {(0, 2), (2, 3)}
    # Ranks floor(5 f) = 1, 2, 4 of 0.8, 0, 0, -0.6, -1 and of 1, 0, 0, 0, 0.
    np.testing.assert_allclose(mined.student.thresholds, [0, 0, -1], atol=EXACT)
    np.testing.assert_allclose(mined.teacher.thresholds, [0, 0, 0], atol=EXACT)
    np.testing.assert_allclose(mined.negative.student, [0.8, 0], atol=EXACT)


def test_matches_loops_over_pairs_in_every_mode(rng, run_as, monkeypatch):
    monkeypatch.setattr(layout, "BLOCK_ROWS", 64)
    student, teacher, labels = batch_of(rng, 80, identities=20)
    images = rng.integers(0, 40, 80).astype(np.int32)
    fprs = (0.3, 1e-2, 1e-3)
    miner = PairMiner(fprs, num_negatives=50)
    batch = (student, teacher, labels, images)
    mined = run_as(lambda *x: miner(*x))(*batch)
    check(mined, student, teacher, labels, images, fprs, k=50)


@op_by_op
@pytest.mark.parametrize("rows, memory", [(1, 0), (33, 0), (9, 70)])
def test_blocks_cover_every_pair(rng, monkeypatch, rows, memory):
    monkeypatch.setattr(layout, "BLOCK_ROWS", 16)
    student, teacher, labels = batch_of(rng, rows + memory, max(rows // 4, 2))
    labels[rows:][rng.random(memory) < 0.2] = NO_ROW
    behind = [np.float32(unit(x))[rows:] for x in (student, teacher)]
    batch = [part[:rows] for part in (student, teacher, labels)]
    extra = ExtraRows(*behind, labels[rows:])
    mined = PairMiner(num_negatives=200)(*batch, None, extra)
    check(mined, student, teacher, labels, k=200, batch=rows)


@pytest.mark.parametrize("limit", [0, 100])
def test_gradient_of_cosines_computed_by_hand(run_as, monkeypatch, limit):
    # d (2 x0.x1 + 3 x0.x2 + 4 x1.x2), with row 2 behind the queries; the values are
    # those given.
    monkeypatch.setattr(layout, "MAX_DENSE_ENTRIES", limit)
    gallery = np.float32([[1, 0], [0, 1], [5, 7]])
    pairs = Pairs(tf.constant([[0, 1], [0, 2], [1, 2]]), tf.constant([1.0, 2, 3]), None)

    step = run_as(
        value_and_gradient(lambda x: with_gradient(*x, pairs) * [2.0, 3.0, 4.0])
    )
    weighted, (of_queries, of_gallery) = step((gallery[:2], gallery))
    np.testing.assert_array_equal(weighted, [2, 6, 12])
    np.testing.assert_array_equal(of_queries, [[15, 23], [22, 28]])
    assert of_gallery is None


def test_degenerate_batches(rng, run_as):
    # All of one shape, so that each mode compiles once.
    student, teacher, _ = batch_of(rng, 4, 1)
    alternating, pairs = np.array([1, -1, 1, -1]), np.int32([0, 0, 1, 1])
    opposite = np.outer(alternating, np.ones(6)), np.outer(-alternating, np.ones(9))
    miner = PairMiner(num_negatives=4)
    mine = run_as(lambda s, t, y: miner(s, t, y))
    for batch in (
        (student, teacher, [3] * 4),
        (student, teacher, [0, 1, 2, 3]),
        (np.ones((4, 6)), -np.ones((4, 9)), pairs),
        (*opposite, pairs),
    ):
        batch = [np.float32(batch[0]), np.float32(batch[1]), np.int32(batch[2])]
        check(mine(*batch), *batch, k=4)
    mined = mine(0 * student, 0 * teacher, pairs)
    assert mined.total_negatives == 4
    for model in (mined.student, mined.teacher):
        np.testing.assert_array_equal(model.thresholds, np.zeros(6))
    np.testing.assert_array_equal(mined.negative.student, np.zeros(4))
    # Rows that are not finite count as zero.
    student[3], teacher[1] = 0, 0
    clean = mine(student, teacher, pairs)
    student[3], teacher[1, 0] = np.nan, np.inf
    mined = mine(student, teacher, pairs)
    assert not mined.finite and clean.finite
    mined = mined._replace(finite=clean.finite)
    for a, b in zip(tf.nest.flatten(mined), tf.nest.flatten(clean)):
        np.testing.assert_array_equal(a, b)


class Scale:
    """Counts how often Python visits its method."""

    visits = 0

    @layout.traced_when_eager
    def power(self, x, exponent=1):
        self.visits += 1
        return 2.0 * x**exponent


def test_a_compiled_method_is_traced_once_for_each_object_and_not_inside_a_trace():
    for exponent, traced in ((1, Scale()), (2, Scale())):
        for x in (1.0, 5.0):
            value = traced.power(tf.constant(x), exponent=exponent)
            assert float(value) == 2 * x**exponent
        assert traced.visits == 1
    step = tf.function(value_and_gradient(lambda x: Scale().power(x, exponent=3)))
    assert [float(x) for x in step(tf.constant(2.0))] == [16.0, 24.0]
    graph = step.get_concrete_function(tf.constant(2.0)).graph
    assert not [op for op in graph.get_operations() if "Call" in op.type]


def test_rejects_arguments_outside_their_range():
    for arguments, words in (
        ({"fprs": [0.0]}, r"`fprs` must be in \(0, 1\)"),
        ({"fprs": [0.1, float("nan")]}, r"`fprs` must be in \(0, 1\)"),
        ({"fprs": []}, "`fprs` must name at least one rate"),
        ({"num_negatives": 0}, r"`num_negatives` must be in \[1, inf\)"),
    ):
        refused(words, PairMiner, **arguments)
