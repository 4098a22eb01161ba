import itertools

import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.mining import DEFAULT_FPRS
from ekd_tf.mining import Memory
from ekd_tf.mining import PairMiner
from ekd_tf.mining import pairs as layout
from ekd_tf.mining.pairs import NO_ROW
from ekd_tf.mining.pairs import pairs_at

op_by_op = pytest.mark.usefixtures("op_by_op")

# Keys are 2^-23 apart; float32 cosines of short rows are off by about as much.
EXACT = 5e-7


def unit_np(x):
    x = np.float64(x)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def mine_np(student, teacher, labels, image_ids=None):
    """The paper's mining as loops over pairs: positives, and negatives by hardness."""
    student, teacher = unit_np(student), unit_np(teacher)
    images = np.arange(len(labels)) if image_ids is None else image_ids
    positive, negative = set(), []
    for i, j in itertools.combinations(range(len(labels)), 2):
        if labels[i] != labels[j]:
            negative.append((student[i] @ student[j], teacher[i] @ teacher[j], (i, j)))
        elif images[i] != images[j]:
            positive.add((i, j))
    return positive, sorted(negative, reverse=True)


def thresholds_np(cosines, fprs):
    ordered = sorted(cosines, reverse=True)
    return [ordered[int(len(ordered) * fpr + 1e-9)] for fpr in fprs]


def batch_of(rng, rows, identities, student_dim=6, teacher_dim=9):
    return (
        np.float32(rng.normal(size=(rows, student_dim))),
        np.float32(rng.normal(size=(rows, teacher_dim))),
        rng.integers(0, identities, rows).astype(np.int32),
    )


def rows_of(pairs):
    positive = pairs.positive
    if not positive.num_pairs:
        return set()
    rows = pairs_at(positive, tf.range(positive.num_pairs)).numpy()
    return {tuple(pair) for pair in np.sort(rows, axis=1)}


def check(mined, student, teacher, labels, image_ids=None, fprs=DEFAULT_FPRS, k=2000):
    """Compares all that was mined with the loop."""
    positive, negative = mine_np(student, teacher, labels, image_ids)
    assert rows_of(mined) == positive
    assert int(mined.num_negatives) == len(negative)

    mask = mined.negative_mask.numpy()
    count = min(k, len(negative))
    assert mask.sum() == count and mask[:count].all()
    found = [tuple(pair) for pair in np.sort(mined.negative.numpy()[:count], axis=1)]
    assert len(set(found)) == count
    cosines = {pair: (s, t) for s, t, pair in negative}
    np.testing.assert_allclose(
        [cosines[pair][0] for pair in found],
        [s for s, _, _ in negative[:count]],
        rtol=0,
        atol=EXACT,
    )
    for column, model in enumerate((mined.student, mined.teacher)):
        mine = [cosines[pair][column] for pair in found]
        np.testing.assert_allclose(model.negative[:count], mine, rtol=0, atol=EXACT)
        assert int(tf.reduce_sum(model.histogram)) == len(negative)
        if negative:
            expected = thresholds_np([entry[column] for entry in negative], fprs)
            np.testing.assert_allclose(model.thresholds, expected, rtol=0, atol=EXACT)


# --- what is mined


def test_mined_pairs_computed_by_hand(run_as):
    # Student cosines 01: 0.6, 02: 0, 03: -1, 12: 0.8, 13: -0.6, 23: 0. Rows 0 and 1 are
    # one identity; of the five negatives 0.8 is the hardest, and the two zeros tie.
    student = np.float32([[2, 0], [3, 4], [0, 1], [-7, 0]])
    teacher = np.float32([[1, 0], [1, 0], [0, 3], [0, 2]])
    miner = PairMiner(fprs=[0.2, 0.5, 0.8], num_negatives=2)
    mined = run_as(lambda s, t, y: miner(s, t, y))(
        tf.constant(student), tf.constant(teacher), tf.constant([4, 4, 6, 9])
    )
    assert int(mined.positive.num_pairs) == 1
    assert mined.num_negatives == 5
    assert tuple(mined.negative[0].numpy()) == (1, 2)
    assert tuple(mined.negative[1].numpy()) in {(0, 2), (2, 3)}
    # Ranks floor(5 f) = 1, 2, 4 of 0.8, 0, 0, -0.6, -1 and of 1, 0, 0, 0, 0.
    np.testing.assert_allclose(mined.student.thresholds, [0, 0, -1], atol=EXACT)
    np.testing.assert_allclose(mined.teacher.thresholds, [0, 0, 0], atol=EXACT)
    np.testing.assert_allclose(mined.student.negative, [0.8, 0], atol=EXACT)


@op_by_op
@pytest.mark.parametrize("rows", [2, 5, 63, 64, 65, 130, 300])
def test_matches_loops_over_pairs(rng, rows):
    student, teacher, labels = batch_of(rng, rows, identities=max(rows // 4, 2))
    mined = PairMiner(num_negatives=200)(student, teacher, labels)
    check(mined, student, teacher, labels, k=200)


def test_matches_loops_over_pairs_in_every_mode(rng, run_as):
    student, teacher, labels = batch_of(rng, 140, identities=30)
    images = rng.integers(0, 60, 140).astype(np.int32)
    fprs = (0.3, 1e-2, 1e-3)
    miner = PairMiner(fprs, num_negatives=50)
    batch = (student, teacher, labels, images)
    mined = run_as(lambda *x: miner(*x))(*(tf.constant(x) for x in batch))
    check(mined, student, teacher, labels, images, fprs, k=50)


@op_by_op
def test_blocks_of_many_rows_cover_the_triangle(rng):
    # 1,100 rows: 7 blocks and filling rows.
    student, teacher, labels = batch_of(rng, 1100, identities=300)
    mined = PairMiner(num_negatives=5000)(student, teacher, labels)
    gram = unit_np(student) @ unit_np(student).T
    upper = np.triu(labels[:, None] != labels[None, :], 1)
    cosines = np.sort(gram[upper])[::-1]
    assert mined.num_negatives == cosines.size
    np.testing.assert_allclose(
        mined.student.negative, cosines[:5000], rtol=0, atol=EXACT
    )
    i, j = np.sort(mined.negative.numpy(), axis=1).T
    assert upper[i, j].all() and len(set(zip(i, j))) == 5000
    np.testing.assert_allclose(gram[i, j], cosines[:5000], rtol=0, atol=EXACT)
    ranks = [cosines.size // 10**k for k in range(1, 7)]
    np.testing.assert_allclose(
        mined.student.thresholds, cosines[ranks], rtol=0, atol=EXACT
    )


@op_by_op
def test_matches_loops_over_pairs_in_narrow_blocks(rng, monkeypatch):
    monkeypatch.setattr(layout, "BLOCK_ROWS", 5)
    for rows in (33, 150):
        student, teacher, labels = batch_of(rng, rows, identities=rows // 4)
        mined = PairMiner(num_negatives=200)(student, teacher, labels)
        check(mined, student, teacher, labels, k=200)


def test_batch_size_unknown_while_tracing(rng, monkeypatch):
    monkeypatch.setattr(layout, "BLOCK_ROWS", 64)
    miner = PairMiner(num_negatives=100)
    mine = tf.function(
        lambda s, t, y: miner(s, t, y),
        input_signature=[
            tf.TensorSpec([None, 6], tf.float32),
            tf.TensorSpec([None, 9], tf.float32),
            tf.TensorSpec([None], tf.int32),
        ],
    )
    for rows in (1, 3, 64, 129, 600):
        student, teacher, labels = batch_of(rng, rows, identities=max(rows // 4, 2))
        if rows == 600:
            unknown = mine(student, teacher, labels)
            known = miner(student, teacher, labels)
            for a, b in zip(tf.nest.flatten(unknown), tf.nest.flatten(known)):
                np.testing.assert_allclose(a, b, rtol=0, atol=EXACT)
            continue
        check(mine(student, teacher, labels), student, teacher, labels, k=100)
    assert mine.experimental_get_tracing_count() == 1


@op_by_op
def test_without_thresholds_the_rest_is_the_same(rng):
    batch = batch_of(rng, 40, identities=9)
    full = PairMiner()(*batch)
    lean = PairMiner()(*batch, with_thresholds=False)
    np.testing.assert_array_equal(lean.negative, full.negative)
    np.testing.assert_array_equal(lean.student.histogram, full.student.histogram)
    assert lean.student.thresholds is lean.teacher.thresholds is None


@op_by_op
def test_pairs_of_one_source_image_are_no_positives(rng):
    student, teacher, _ = batch_of(rng, 6, identities=2)
    labels = np.int32([1, 1, 1, 2, 2, 2])
    # Rows 0 and 1 are one image. Row 3 has its number too, but is another identity.
    mined = PairMiner()(student, teacher, labels, np.int32([7, 7, 8, 7, 9, 10]))
    assert rows_of(mined) == {(0, 2), (1, 2), (3, 4), (3, 5), (4, 5)}
    assert mined.num_negatives == 9


@op_by_op
def test_mines_in_float32_under_mixed_precision(rng, mixed_policy):
    batch = batch_of(rng, 30, identities=8)
    expected = PairMiner()(*batch)
    for policy in ("mixed_float16", "mixed_bfloat16"):
        mixed_policy(policy)
        mined = PairMiner()(*batch)
        np.testing.assert_array_equal(
            mined.student.thresholds, expected.student.thresholds
        )
        assert mined.teacher.negative.dtype == tf.float32


@op_by_op
def test_invariant_to_the_scale_of_rows(rng):
    student, teacher, labels = batch_of(rng, 40, identities=9)
    scale = np.float32(rng.uniform(0.01, 100, (40, 1)))
    mined = PairMiner()(student, teacher, labels)
    scaled = PairMiner()(student * scale, teacher / scale, labels)
    for a, b in ((mined.student, scaled.student), (mined.teacher, scaled.teacher)):
        np.testing.assert_allclose(a.thresholds, b.thresholds, rtol=0, atol=EXACT)
        np.testing.assert_allclose(a.negative[:700], b.negative[:700], atol=EXACT)


@op_by_op
def test_no_gradient_flows_through_the_mining(rng):
    student, teacher, labels = (tf.constant(x) for x in batch_of(rng, 10, 3))
    with tf.GradientTape() as tape:
        tape.watch([student, teacher])
        mined = PairMiner(fprs=[0.1])(student, teacher, labels)
        values = [mined.student.thresholds, mined.teacher.negative]
    assert tape.gradient(values, [student, teacher]) == [None, None]


# --- degenerate batches


def degenerate_batches(rng):
    """Yields a name and a batch; all of one shape, so that each mode compiles once."""
    student, teacher, _ = batch_of(rng, 4, 1)
    alternating, pairs = np.array([1, -1, 1, -1]), [0, 0, 1, 1]
    opposite = np.outer(alternating, np.ones(6)), np.outer(-alternating, np.ones(9))
    yield "one identity", student, teacher, [3] * 4
    yield "no positive", student, teacher, [0, 1, 2, 3]
    yield "all equal", np.ones((4, 6)), -np.ones((4, 9)), pairs
    yield "opposite", *opposite, pairs
    yield "zero rows", 0 * student, 0 * teacher, pairs


def test_degenerate_batches(rng, run_as):
    miner = PairMiner(num_negatives=4)
    mine = run_as(lambda s, t, y: miner(s, t, y))
    for kind, student, teacher, labels in degenerate_batches(rng):
        batch = (np.float32(student), np.float32(teacher), np.int32(labels))
        mined = mine(*(tf.constant(x) for x in batch))
        if kind == "zero rows":
            assert mined.num_negatives == 4
            for model in (mined.student, mined.teacher):
                np.testing.assert_allclose(model.thresholds, np.zeros(6), atol=EXACT)
                np.testing.assert_array_equal(model.negative, np.zeros(4))
        else:
            check(mined, *batch, k=4)
        for tensor in tf.nest.flatten(mined):
            assert np.isfinite(np.float64(tensor)).all(), kind


@op_by_op
def test_opposite_rows_are_still_a_pair():
    rows = np.float32([[1, 0], [-1, 0]])
    mined = PairMiner(num_negatives=3)(rows, rows, np.int32([0, 1]))
    assert mined.negative_mask.numpy().tolist()[0] and mined.num_negatives == 1
    assert mined.student.negative[0] == mined.teacher.negative[0] == -1


@op_by_op
@pytest.mark.parametrize("rows", [1, 2])
def test_too_few_rows_for_a_pair_of_each_kind(rng, rows):
    student, teacher, _ = batch_of(rng, rows, 1)
    mined = PairMiner(num_negatives=4)(student, teacher, np.arange(rows))
    check(mined, student, teacher, np.arange(rows), k=4)


def test_rows_that_are_not_finite_count_as_zero(rng, run_as):
    student, teacher, labels = batch_of(rng, 12, 4)
    clean_student, clean_teacher = student.copy(), teacher.copy()
    student[3], teacher[5, 0] = np.nan, np.inf
    clean_student[3], clean_teacher[5] = 0, 0
    miner = PairMiner(num_negatives=10)
    mine = run_as(lambda s, t, y: miner(s, t, y))
    mined = mine(tf.constant(student), tf.constant(teacher), tf.constant(labels))
    clean = mine(
        tf.constant(clean_student), tf.constant(clean_teacher), tf.constant(labels)
    )
    assert not mined.finite and clean.finite
    mined = mined._replace(finite=clean.finite)
    for a, b in zip(tf.nest.flatten(mined), tf.nest.flatten(clean)):
        np.testing.assert_array_equal(a, b)


# --- wrong arguments


@pytest.mark.parametrize("fprs", [[0.0], [0.1, 1.0], [-0.1], [float("nan")]])
def test_rejects_rates_outside_the_open_unit_interval(fprs):
    with pytest.raises(ValueError, match=r"`fprs` must be in \(0, 1\)"):
        PairMiner(fprs=fprs)


def test_rejects_no_rates():
    with pytest.raises(ValueError, match="`fprs` must name at least one rate"):
        PairMiner(fprs=[])


@pytest.mark.parametrize("number", [0, -3, 0.5])
def test_rejects_mining_no_negatives(number):
    with pytest.raises(ValueError, match=r"`num_negatives` must be in \[1, inf\)"):
        PairMiner(num_negatives=number)


@op_by_op
def test_rejects_wrong_shapes(rng):
    student, teacher, labels = batch_of(rng, 4, 2)
    miner = PairMiner()
    with pytest.raises(ValueError, match="`student` must have 2 dimensions"):
        miner(student[0], teacher, labels)
    with pytest.raises(ValueError, match="`labels` must have 1 dimensions"):
        miner(student, teacher, labels[:, None])
    with pytest.raises(ValueError, match="same batch.*teacher=3"):
        miner(student, teacher[:3], labels)
    with pytest.raises(ValueError, match="same batch.*image_ids=2"):
        miner(student, teacher, labels, labels[:2])


@op_by_op
def test_takes_variables_arrays_and_every_number(rng):
    student, teacher = np.float16(rng.normal(size=(2, 6, 4)))
    labels, ids = np.int64([0, 0, 1, 1, 2, 2]), np.arange(6)
    rows, unused = tf.zeros([3, 4]), tf.fill([3], NO_ROW)
    miner = PairMiner(num_negatives=8)
    for memory in (None, Memory(rows, rows, unused, unused)):
        expected = miner(np.float32(student), teacher, labels, ids, memory)
        for kind, dtype in ((tf.Variable, np.float32), (np.array, np.float64)):
            given = kind(dtype(student)), kind(dtype(teacher)), kind(labels), kind(ids)
            found = miner(*given, memory)
            np.testing.assert_array_equal(found.negative, expected.negative)
            assert int(found.positive.num_pairs) == 3
