import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.losses import EKDLoss
from ekd_tf.losses.ekd import attach_thresholds
from ekd_tf.losses.ekd import near_in_rank
from ekd_tf.losses.ekd import rank_differences
from ekd_tf.losses.ekd import soft_rank
from ekd_tf.mining import PairMiner
from ekd_tf.mining.miner import NO_ROW

op_by_op = pytest.mark.usefixtures("op_by_op")
# XLA compiles the whole loss in half a minute; smaller cases run by default.
slow_xla = pytest.param("xla", marks=pytest.mark.slow)


# --- the paper's loss as loops over pairs in float64


def unit_np(x):
    x = np.float64(x)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def sigmoid_np(x):
    return 0.5 * (1 + np.tanh(x / 2))


def cosines_np(student, teacher, labels, image_ids=None, batch=None):
    """Returns (student cosine, teacher cosine) of all positives and all negatives.

    Of the first `batch` rows, and of each of them with the rows behind.
    """
    student, teacher = unit_np(student), unit_np(teacher)
    images = np.arange(len(labels)) if image_ids is None else image_ids
    positive, negative = [], []
    for i, j in itertools.combinations(range(len(labels)), 2):
        pair = (student[i] @ student[j], teacher[i] @ teacher[j])
        if i >= (batch or len(labels)):
            continue
        if labels[i] != labels[j]:
            negative.append(pair)
        elif images[i] != images[j]:
            positive.append(pair)
    return positive, negative


def thresholds_np(negative, fprs):
    """Returns the batch thresholds, student's and teacher's in rows."""
    ranks = [int(len(negative) * fpr + 1e-9) for fpr in fprs]
    ordered = [sorted(column, reverse=True) for column in zip(*negative)]
    return np.array([[column[rank] for rank in ranks] for column in ordered])


def ekd_np(positive, negative, thresholds, temperature=0.01, num_negatives=2000):
    """Returns the positive and the negative term at the default weights."""

    def mean_square(pairs):
        total = 0.0
        for student, teacher in pairs:
            rank_s = sum(sigmoid_np((student - t) / temperature) for t in thresholds[0])
            rank_t = sum(sigmoid_np((teacher - t) / temperature) for t in thresholds[1])
            total += (rank_s - rank_t) ** 2
        return total / len(pairs) if pairs else 0.0

    hardest = sorted(negative, reverse=True)[:num_negatives]
    return 0.02 * mean_square(positive), 0.01 * mean_square(hardest)


# --- helpers


def loss_of(fprs=None, num_negatives=2000, **kwargs):
    """Returns the paper's form, without start-up bias, or another."""
    form = {
        "temperature": 0.01,
        "thresholds": "ema",
        "threshold_gradient": False,
        "memory": 0,
    }
    miner = PairMiner(num_negatives=num_negatives, **({"fprs": fprs} if fprs else {}))
    return EKDLoss(**{**form, "miner": miner, **kwargs})


def with_memory(rows, **kwargs):
    return EKDLoss(memory=rows, student_dim=5, teacher_dim=8, **kwargs)


def batch_of(rng, rows, identities, student_dim=5, teacher_dim=8):
    """A batch whose models agree to some extent, as trained ones do."""
    labels = rng.integers(0, identities, rows).astype(np.int32)
    shared = rng.normal(size=(identities, 4))[labels] + rng.normal(size=(rows, 4)) / 2

    def embed(dim):
        rows_of = shared @ rng.normal(size=(4, dim)) + rng.normal(size=(rows, dim)) / 4
        return np.float32(rows_of)

    return embed(student_dim), embed(teacher_dim), labels


def with_gradient(loss, **kwargs):
    """Returns `(student, teacher, labels, image_ids) -> (sum of terms, gradient)`."""

    def step(student, teacher, labels, image_ids=None):
        with tf.GradientTape() as tape:
            tape.watch(student)
            terms = loss(student, teacher, labels, image_ids, **kwargs)
            total = sum(terms.values())
        return total, tape.gradient(total, student)

    return step


def tensors(*arrays):
    return tuple(None if x is None else tf.constant(x) for x in arrays)


def terms_of(loss, *batch, **kwargs):
    return tuple(float(value) for value in loss(*batch, **kwargs).values())


def state_of(loss):
    # Keras 2 adds ":0" to names.
    return {v.name.split(":")[0]: np.array(v) for v in loss.variables}


def assert_same_gradient(gradient, expected):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5 * scale)


# --- the value


def test_rank_difference_computed_by_hand(run_as):
    # With temperature 0.1 / ln 3 a cosine 0.1 above a threshold has rank 3/4 there.
    # Student 0.5 against (0.5, 0.4): 1/2 + 3/4. Teacher 0.2 against (0.2, 0.3):
    # 1/2 + 1/4. (5/4 - 3/4)^2 = 1/4.
    differences = run_as(
        lambda s: rank_differences(
            s,
            tf.constant([0.2]),
            tf.constant([0.5, 0.4]),
            tf.constant([0.2, 0.3]),
            0.1 / np.log(3),
        )
    )(tf.constant([0.5]))
    np.testing.assert_allclose(differences, [0.25], rtol=1e-5)


def test_soft_rank_approaches_the_number_of_thresholds_below(rng):
    cosines = tf.constant(rng.uniform(-1, 1, 50), tf.float32)
    thresholds = tf.constant([-0.4, 0.0, 0.5])
    hard = np.sum(cosines[:, None] > thresholds[None, :], axis=1)
    np.testing.assert_allclose(soft_rank(cosines, thresholds, 1e-6), hard, atol=1e-3)


@op_by_op
def test_loss_computed_by_hand():
    # Rows 0 and 1 are one identity. Student cosines 01: 0.6, 02: 0.8, 12: 0; teacher
    # 01: 1, 02: 0, 12: 0. At FPR 0.1 the thresholds are the largest negatives, 0.8 and
    # 0. Temperature 0.1 / ln 3 makes 3^(10 x) the odds at a distance x:
    #   positive: student 1 / (1 + 9) (0.2 below), teacher 1 (1 above): (0.9)^2
    #   negatives: student 1/2 and 1 / (1 + 3^8), teacher 1/2 and 1/2: 0 and about 1/4
    student = np.float32([[1, 0], [0.6, 0.8], [0.8, -0.6]])
    teacher = np.float32([[1, 0], [2, 0], [0, 3]])
    loss = loss_of(
        fprs=[0.1], temperature=0.1 / np.log(3), positive_weight=2, negative_weight=3
    )
    labels = np.int32([7, 7, 9])
    terms = loss(student, teacher, labels)
    assert list(terms) == ["ekd/positive", "ekd/negative"]
    np.testing.assert_allclose(terms["ekd/positive"], 2 * 0.81, rtol=1e-4)
    negative = (1 / 2 - 1 / (1 + 3.0**8)) ** 2 / 2
    np.testing.assert_allclose(terms["ekd/negative"], 3 * negative, rtol=1e-4)
    np.testing.assert_allclose(loss.student_thresholds, [0.8], rtol=1e-5)
    np.testing.assert_allclose(loss.teacher_thresholds, [0], atol=1e-6)
    # The positive pair passes for the teacher alone, and no negative passes: rounding
    # may put a threshold to either side of its own pair.
    loss.student_thresholds.assign([0.8001])
    loss.teacher_thresholds.assign([0.0001])
    _, monitor = loss(student, teacher, labels, training=False, with_monitor=True)
    expected = {
        "threshold/student/fpr_1e-1": 0.8001,
        "threshold/teacher/fpr_1e-1": 0.0001,
        "batch_tpr/student/fpr_1e-1": 0,
        "batch_tpr/teacher/fpr_1e-1": 1,
        "critical/positive/fpr_1e-1": 1,
        "critical/negative/fpr_1e-1": 0,
        "critical/positive": 1,
        "critical/negative": 0,
        "pairs/positive": 1,
        "pairs/negative": 2,
    }
    assert monitor.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(monitor[name], value, rtol=1e-6, err_msg=name)


@op_by_op
@pytest.mark.parametrize("rows", [2, 3, 17, 90])
def test_matches_loops_over_pairs(rng, rows):
    student, teacher, labels = batch_of(rng, rows, identities=max(rows // 4, 2))
    image_ids = rng.integers(0, max(rows // 2, 2), rows).astype(np.int32)
    loss = loss_of(temperature=0.05, num_negatives=100)
    got = terms_of(loss, student, teacher, labels, image_ids)
    positive, negative = cosines_np(student, teacher, labels, image_ids)
    thresholds = (
        thresholds_np(negative, loss.miner.fprs) if negative else np.zeros((2, 6))
    )
    expected = ekd_np(positive, negative, thresholds, 0.05, 100)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(
    "rows, run_as",
    [
        *[(16, "graph"), (64, "xla"), (512, "eager"), (512, "graph")],
        # XLA of TensorFlow 2.15 cannot prove shapes that agree above 362 rows.
        pytest.param(512, "xla", marks=[pytest.mark.slow, pytest.mark.keras3]),
    ],
    indirect=["run_as"],
)
def test_reference_preset_reproduces_tface(golden_arrays, run_as, rows):
    arrays = golden_arrays("ekd_official.npz")
    loss = EKDLoss.reference()
    step = run_as(with_gradient(loss))
    for i in range(5):
        given = {
            name: arrays[f"b{rows}_step{i}_{name}"]
            for name in ("student", "teacher", "labels", "loss", "grad")
        }
        value, gradient = step(
            *tensors(given["student"], given["teacher"], np.int32(given["labels"]))
        )
        np.testing.assert_allclose(value, given["loss"], rtol=1e-5)
        assert_same_gradient(gradient, given["grad"])
        for side in ("student_thresholds", "teacher_thresholds"):
            expected = arrays[f"b{rows}_step{i}_{side}"]
            np.testing.assert_allclose(getattr(loss, side), expected, rtol=1e-5)


def test_batch_size_unknown_while_tracing(rng):
    fixed, free = with_memory(16), with_memory(16)
    spec = [tf.TensorSpec([None, n]) for n in (5, 8)] + [tf.TensorSpec([None], "int32")]
    step = tf.function(with_gradient(free), input_signature=spec, autograph=False)
    for rows in (9, 30, 12):
        batch = tensors(*batch_of(rng, rows, 4))
        value, gradient = with_gradient(fixed)(*batch)
        other, of_other = step(*batch)
        np.testing.assert_allclose(other, value, rtol=1e-5)
        np.testing.assert_allclose(of_other, gradient, rtol=1e-4, atol=1e-7)


# --- what does not matter


@op_by_op
def test_zero_when_the_teacher_is_a_rotated_scaled_student(rng):
    student, _, labels = batch_of(rng, 40, 10)
    rotation, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    teacher = np.float32(3 * student @ rotation)
    np.testing.assert_allclose(
        terms_of(loss_of(), student, teacher, labels), 0, atol=1e-6
    )


@op_by_op
def test_invariant_to_the_scale_of_each_row(rng):
    student, teacher, labels = batch_of(rng, 40, 10)
    scale = np.float32(rng.uniform(0.1, 10, (40, 1)))
    np.testing.assert_allclose(
        terms_of(loss_of(), student * scale, teacher / scale, labels),
        terms_of(loss_of(), student, teacher, labels),
        rtol=1e-3,
    )


@op_by_op
def test_invariant_to_batch_order(rng):
    student, teacher, labels = batch_of(rng, 40, 10)
    image_ids = rng.integers(0, 20, 40)
    order = rng.permutation(40)
    value, gradient = with_gradient(loss_of(temperature=0.05))(
        *tensors(student, teacher, labels, image_ids)
    )
    shuffled, other = with_gradient(loss_of(temperature=0.05))(
        *tensors(student[order], teacher[order], labels[order], image_ids[order])
    )
    np.testing.assert_allclose(value, shuffled, rtol=1e-5)
    assert_same_gradient(other, np.array(gradient)[order])


@op_by_op
def test_pairs_of_one_source_image_count_only_for_the_reference(rng):
    student, teacher, _ = batch_of(rng, 12, 3)
    labels = np.repeat(np.int32([0, 1, 2]), 4)
    image_ids = np.int32([0, 0, 1, 2, 3, 3, 4, 5, 6, 6, 6, 6])
    with_repeats = terms_of(loss_of(), student, teacher, labels)
    assert terms_of(loss_of(), student, teacher, labels, image_ids) != with_repeats
    reference = EKDLoss.reference()
    assert terms_of(reference, student, teacher, labels, image_ids) == terms_of(
        EKDLoss.reference(), student, teacher, labels
    )


# --- the gradient


@op_by_op
def test_gradient_matches_central_differences(rng):
    student, teacher, labels = batch_of(rng, 14, 4)
    loss = loss_of(fprs=[0.3, 0.1, 0.02], temperature=0.2)
    _, gradient = with_gradient(loss)(*tensors(student, teacher, labels))
    thresholds = np.float64([loss.student_thresholds, loss.teacher_thresholds])
    expected = np.zeros(student.shape)
    for index in np.ndindex(student.shape):
        values = []
        for h in (1e-5, -1e-5):
            moved = np.float64(student)
            moved[index] += h
            pairs = cosines_np(moved, teacher, labels)
            values.append(sum(ekd_np(*pairs, thresholds, 0.2)))
        expected[index] = (values[0] - values[1]) / 2e-5
    np.testing.assert_allclose(
        gradient, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()
    )


@op_by_op
def test_rows_in_no_mined_pair_get_no_gradient(rng):
    # Identities 0 and 1 have two rows each. Of the single rows 4 to 8 only 4 and 5,
    # which are close, are among the mined negatives.
    student, teacher, _ = batch_of(rng, 9, 9, student_dim=16)
    student = np.float32(np.linalg.qr(rng.normal(size=(16, 9)))[0].T)
    student[5] = student[4] + 0.3 * student[5]
    labels = np.int32([0, 0, 1, 1, 2, 3, 4, 5, 6])
    for attached in (False, True):
        loss = loss_of(
            fprs=[1e-3],
            num_negatives=1,
            temperature=0.5,
            threshold_gradient=attached,
        )
        _, gradient = with_gradient(loss)(*tensors(student, teacher, labels))
        norms = np.linalg.norm(gradient, axis=1)
        assert (norms[:6] > 0).all()
        np.testing.assert_array_equal(norms[6:], [0, 0, 0])


@op_by_op
def test_detached_thresholds_and_teachers_carry_no_gradient(rng):
    # Cosines moved by the same amount as the thresholds would have no gradient at all.
    student, teacher, labels = tensors(*batch_of(rng, 12, 3))
    fresh = loss_of(temperature=0.2, momentum=1.0)
    _, gradient = with_gradient(fresh)(student, teacher, labels)
    _, frozen = with_gradient(fresh, training=False)(student, teacher, labels)
    np.testing.assert_allclose(gradient, frozen, rtol=1e-5, atol=1e-8)
    with tf.GradientTape() as tape:
        tape.watch(teacher)
        total = sum(fresh(student, teacher, labels).values())
    assert tape.gradient(total, teacher) is None


# --- the thresholds


@pytest.mark.parametrize("bias_correction", [True, False])
def test_thresholds_are_the_average_over_steps(rng, bias_correction):
    loss = loss_of(
        fprs=[0.1, 0.02], momentum=0.3, bias_correction=bias_correction, name="mine"
    )
    step = tf.function(lambda *x: loss(*x))
    average = np.zeros((2, 2))
    for i in range(4):
        batch = batch_of(rng, 20, 6)
        terms = step(*tensors(*batch))
        pairs = cosines_np(*batch)
        average = 0.7 * average + 0.3 * thresholds_np(pairs[1], loss.miner.fprs)
        expected = average / (1 - 0.7 ** (i + 1)) if bias_correction else average
        np.testing.assert_allclose(loss.student_thresholds, expected[0], atol=2e-6)
        np.testing.assert_allclose(loss.teacher_thresholds, expected[1], atol=2e-6)
        # They are updated before they are used.
        values = [float(terms["mine/positive"]), float(terms["mine/negative"])]
        np.testing.assert_allclose(values, ekd_np(*pairs, expected), rtol=1e-2)


@pytest.mark.parametrize("momentum", [1e-9, 0.2])
def test_histogram_thresholds_match_a_sort_of_all_steps(rng, momentum):
    fprs = [1e-1, 1e-2, 1e-3, 1e-4]
    loss = loss_of(fprs=fprs, momentum=momentum, thresholds="histogram")
    step = tf.function(lambda *x: loss(*x))
    cosines, weights = np.zeros((2, 0)), np.zeros(0)
    for _ in range(6):
        student, teacher, labels = batch_of(rng, 64, 16, 32, 48)
        step(*tensors(student, teacher, labels))
        upper = np.triu(labels[:, None] != labels[None, :], 1)
        batch = [(unit_np(x) @ unit_np(x).T)[upper] for x in (student, teacher)]
        cosines = np.concatenate([cosines, batch], axis=1)
        weights = np.concatenate([weights * (1 - momentum), np.ones(len(batch[0]))])
    for row, side in enumerate(("student", "teacher")):
        counts = np.array(getattr(loss, f"{side}_histogram"))
        np.testing.assert_allclose(counts.sum(), weights.sum(), rtol=1e-5)
        got = np.array(getattr(loss, f"{side}_thresholds"))
        order = np.argsort(-cosines[row])
        above = np.cumsum(weights[order])
        places = np.searchsorted(above, np.multiply(fprs, above[-1]))
        expected = cosines[row][order][places]
        # A bin, and the gap to the neighbouring cosine where they are sparse.
        np.testing.assert_allclose(got[:3], expected[:3], rtol=0, atol=2.0**-10)
        np.testing.assert_allclose(got[3], expected[3], rtol=0, atol=2.0**-7)


@op_by_op
def test_histogram_resolves_rates_a_batch_cannot(rng):
    # 32 rows have fewer than 500 negatives: the batch's own threshold at 1e-3 is its
    # maximum, far above the rate asked for.
    loss = loss_of(fprs=[1e-3], momentum=1e-9, thresholds="histogram")
    own = loss_of(fprs=[1e-3])
    cosines = []
    for _ in range(30):
        rows = np.float32(rng.normal(size=(32, 16)))
        loss(rows, rows, np.arange(32))
        own(rows, rows, np.arange(32))
        cosines.append((unit_np(rows) @ unit_np(rows).T)[np.triu_indices(32, 1)])
    above = np.concatenate(cosines) > np.array(loss.student_thresholds)
    assert 0.8e-3 < above.mean() < 1.2e-3
    above_own = np.concatenate(cosines) > np.array(own.student_thresholds)
    assert above_own.mean() > 1.6e-3


# --- degenerate batches

ZERO_TERMS = {
    "no positive": ["ekd/positive"],
    "no negative": ["ekd/negative"],
    "one repeated image": ["ekd/positive"],
}


def degenerate_batches(rng):
    """Yields a name and the student, teacher, labels and image_ids of a batch."""
    student, teacher, _ = batch_of(rng, 4, 4)
    ones, alternating = np.ones(4), np.array([1, -1, 1, -1])
    equal_student, equal_teacher = np.ones((4, 5)), -np.ones((4, 8))
    two_each, rows = [0, 0, 1, 1], [0, 1, 2, 3]
    yield "no positive", student, teacher, rows, rows
    yield "no negative", student, teacher, [1] * 4, rows
    yield "one repeated image", student, teacher, [1, 1, 2, 3], [7] * 4
    yield "collapsed student", equal_student, teacher, two_each, rows
    yield "both collapsed", equal_student, equal_teacher, two_each, rows
    opposite = np.outer(alternating, np.ones(5))
    yield "opposite rows", opposite, np.outer(ones, np.ones(8)), two_each, rows
    yield "zero rows", 0 * student, 0 * teacher, two_each, rows


@pytest.fixture(scope="module", params=["ema eager", "ema xla", "default graph"])
def shared(request):
    """Returns a loss and its step for four rows, traced once for several tests."""
    form, mode = request.param.split()
    loss = loss_of(temperature=0.1, momentum=0.5)
    if form == "default":
        loss = with_memory(6, momentum=0.5)

    def step(*batch):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(batch[0])
            terms = loss(*batch)
        return terms, {name: tape.gradient(terms[name], batch[0]) for name in terms}

    if mode != "eager":
        step = tf.function(step, jit_compile=mode == "xla", autograph=False)
    fresh = state_of(loss)

    def run(*batch, afresh=False):
        if afresh:
            for variable, value in zip(loss.variables, fresh.values()):
                variable.assign(value)
        dtypes = np.float32, np.float32, np.int32, np.int32
        return step(*tensors(*(dtype(x) for dtype, x in zip(dtypes, batch))))

    return loss, run


def test_degenerate_batches_stay_finite(rng, shared):
    loss, run = shared
    for kind, *batch in degenerate_batches(rng):
        terms, gradients = run(*batch, afresh=True)
        for name in terms:
            assert np.isfinite(terms[name]) and np.isfinite(gradients[name]).all(), kind
        for name in ZERO_TERMS.get(kind, []):
            assert float(terms[name]) == 0.0, kind
            np.testing.assert_array_equal(gradients[name], np.zeros((4, 5)))
        for variable in loss.variables:
            assert np.isfinite(np.array(variable)).all(), kind


def test_unusable_batches_leave_the_thresholds_alone(rng, shared):
    loss, run = shared

    def four_rows():
        student, teacher, _ = batch_of(rng, 4, 4)
        return student, teacher, np.int32([0, 0, 1, 2]), np.arange(4)

    run(*four_rows(), afresh=True)
    before = state_of(loss)
    for harm in ("no negatives", "nan student", "infinite teacher"):
        student, teacher, labels, images = four_rows()
        if harm == "no negatives":
            if loss.memory:
                continue
            labels[:] = 3
        elif harm == "nan student":
            student[2, 1] = np.nan
        else:
            teacher[3] = np.inf
        terms, _ = run(student, teacher, labels, images)
        assert np.isnan(terms["ekd/negative"]) == (harm == "nan student")
        for name, value in state_of(loss).items():
            np.testing.assert_array_equal(value, before[name], err_msg=harm)
    run(*four_rows())
    assert float(loss.num_updates) == 2
    assert not np.array_equal(loss.student_thresholds, before["student_thresholds"])


@op_by_op
def test_batch_of_one_has_no_loss(rng):
    student, teacher, _ = batch_of(rng, 1, 1)
    value, gradient = with_gradient(loss_of())(*tensors(student, teacher, [3]))
    assert float(value) == 0.0 and not np.any(gradient)


@op_by_op
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_computes_in_float32_under_mixed_precision(rng, mixed_policy, dtype):
    student, teacher, labels = tensors(*batch_of(rng, 30, 8))
    half = [tf.cast(x, dtype) for x in (student, teacher)]
    full = [tf.cast(x, "float32") for x in half]
    want, _ = with_gradient(loss_of(temperature=0.1))(*full, labels)
    mixed_policy(f"mixed_{dtype}")
    loss = loss_of(temperature=0.1)
    got, gradient = with_gradient(loss)(*half, labels)
    assert got.dtype == tf.float32 and gradient.dtype == dtype
    assert all(tf.as_dtype(v.dtype) == tf.float32 for v in loss.variables)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert np.abs(tf.cast(gradient, tf.float32)).max() > 0


@op_by_op
def test_monitor_names_every_rate():
    rows = np.eye(4, dtype=np.float32)
    loss = loss_of(fprs=[1e-3, 0.015, 0.5])
    _, monitor = loss(rows, rows, np.int32([0, 0, 1, 1]), with_monitor=True)
    names = {name for name in monitor if name.startswith("threshold/teacher/")}
    assert names == {f"threshold/teacher/fpr_{f}" for f in ("1e-3", "1.5e-2", "5e-1")}


# --- saving and arguments


def test_config_round_trip():
    arguments = {
        "temperature": 0.03,
        "momentum": 0.2,
        "positive_weight": 0.5,
        "negative_weight": 0.0,
        "thresholds": "histogram",
        "bias_correction": False,
        "same_image_pairs": True,
        "memory": 3,
        "student_dim": 5,
        "teacher_dim": 8,
        "name": "mine",
    }
    made = loss_of(fprs=[0.2, 0.003], num_negatives=7, **arguments)
    config = keras.saving.serialize_keras_object(made)
    loss = keras.saving.deserialize_keras_object(config)
    assert type(loss) is EKDLoss
    for name, value in arguments.items():
        assert getattr(loss, name) == value
    assert (loss.miner.fprs, loss.miner.num_negatives) == ((0.2, 0.003), 7)


@op_by_op
@pytest.mark.parametrize("memory", [0, 20])
def test_state_is_saved_with_the_run_and_not_moved_by_evaluation(rng, tmp_path, memory):
    batches = [batch_of(rng, 16, 4) for _ in range(3)]
    loss = with_memory(memory, momentum=0.2)
    for batch in batches[:2]:
        loss(*batch)
    before = state_of(loss)
    names = {"student_thresholds", "teacher_thresholds", "num_updates"}
    names |= {"student_histogram", "teacher_histogram"}
    if memory:
        names |= {"memory_student", "memory_teacher"}
        names |= {"memory_labels", "memory_image_ids"}
    assert before.keys() == names and not loss.trainable_variables
    expected = terms_of(loss, *batches[2], training=False)
    path = tf.train.Checkpoint(loss=loss).save(str(tmp_path / "run"))
    resumed = with_memory(memory, momentum=0.2)
    tf.train.Checkpoint(loss=resumed).restore(path).assert_consumed()
    assert terms_of(resumed, *batches[2], training=False) == expected
    for other in (loss, resumed):
        for name, value in state_of(other).items():
            np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"temperature": 0}, r"`temperature` must be in \(0, inf\)"),
        ({"momentum": 0}, r"`momentum` must be in \(0, 1\]"),
        ({"momentum": 1.5}, r"`momentum` must be in \(0, 1\]"),
        ({"positive_weight": -1}, r"`positive_weight` must be in \[0, inf\)"),
        ({"negative_weight": -1}, r"`negative_weight` must be in \[0, inf\)"),
        ({"thresholds": "hist"}, "`thresholds` must be one of 'ema', 'histogram'"),
        ({"memory": -1}, r"`memory` must be in \[0, inf\)"),
        ({"memory": 9}, "`memory` needs `student_dim` and `teacher_d"),
    ],
)
def test_rejects_arguments_outside_their_range(arguments, words):
    with pytest.raises(ValueError, match=words):
        loss_of(**arguments)


def test_needs_labels(rng):
    student, teacher, _ = batch_of(rng, 4, 2)
    with pytest.raises(ValueError, match="EKDLoss needs `labels`"):
        loss_of()(student, teacher)


# --- thresholds that pass their gradient on


def test_attached_thresholds_move_with_the_negatives_around_them(run_as):
    # Two positives, then 50 negatives. Rank 4: two to either side, a fifth each. Rank
    # 0: three from the top. Rank 40: a quarter of it to either side. Rank 50: none.
    thresholds = tf.constant([0.3, 0.8, 0.1, 0.0])
    ranks = tf.constant([4, 0, 40, 50])

    def step(cosines):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(cosines)
            near = near_in_rank(ranks, tf.range(52) - 2)
            columns = tf.unstack(attach_thresholds(thresholds, cosines, near))
        return columns, [tape.gradient(column, cosines) for column in columns]

    values, gradients = run_as(step)(tf.linspace(0.9, 0.0, 52))
    np.testing.assert_array_equal(values, thresholds)
    places = np.arange(-2, 50)
    for gradient, first, last in zip(gradients, (2, 0, 30), (6, 2, 49)):
        inside = (places >= first) & (places <= last)
        np.testing.assert_allclose(gradient, inside / inside.sum(), rtol=1e-6)
    np.testing.assert_array_equal(gradients[3], np.zeros(52))


def thresholds_after_training(rng, **kwargs):
    """Trains a linear student on noisy images of a teacher's embeddings.

    Returns the student's and the teacher's thresholds and the last loss.
    """
    labels = np.repeat(np.arange(16, dtype=np.int32), 4)
    centres = rng.normal(size=(16, 32))[labels]
    teacher, images = (
        tf.constant(centres + noise * rng.normal(size=(64, 32)), tf.float32)
        for noise in (0.5, 1.5)
    )
    weights = tf.Variable(rng.normal(size=(32, 32)), dtype=tf.float32)
    loss = loss_of(temperature=0.1, momentum=0.05, **kwargs)

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            total = sum(loss(images @ weights, teacher, labels).values())
        weights.assign_sub(100.0 * tape.gradient(total, weights))
        return total

    for _ in range(100):
        last = step()
    thresholds = loss.student_thresholds, loss.teacher_thresholds
    return *(np.array(value) for value in thresholds), float(last)


def test_detached_thresholds_run_away_and_attached_ones_do_not(rng):
    state = rng.bit_generator.state
    student, teacher, detached_loss = thresholds_after_training(rng)
    assert student[1] > 0.85 and teacher[1] < 0.5
    rng.bit_generator.state = state
    student, _, attached_loss = thresholds_after_training(rng, threshold_gradient=True)
    np.testing.assert_allclose(student[1], teacher[1], atol=0.15)
    assert attached_loss < 0.1 * detached_loss


@op_by_op
def test_raising_every_cosine_of_a_large_batch_is_not_rewarded(rng):
    # 100 identities, 300 rows: 2,000 mined negatives are far fewer than FPR 0.1 has.
    _, teacher, labels = batch_of(rng, 300, 100)
    student = np.float32(teacher + 2 * rng.normal(size=teacher.shape))
    values, slopes = [], []
    for attached in (False, True):
        loss = loss_of(
            fprs=[0.1],
            temperature=0.1,
            thresholds="histogram",
            threshold_gradient=attached,
            negative_weight=0.0,
        )
        with tf.GradientTape() as tape:
            rise = tf.constant(0.0)
            tape.watch(rise)
            # A direction all rows share takes every cosine up; the lowest most, which
            # is all that is left to reward.
            unit = tf.math.l2_normalize(student, axis=1)
            raised = tf.concat([unit, tf.fill([300, 1], rise + 0.3)], axis=1)
            total = sum(loss(raised, teacher, labels).values())
        slopes.append(float(tape.gradient(total, rise)))
        values.append(float(total))
    assert values[0] == values[1]
    assert slopes[0] < 0 and abs(slopes[1]) < 0.4 * abs(slopes[0])


@op_by_op
@pytest.mark.parametrize("num_negatives", [10, 2256, 4000])
def test_attached_thresholds_move_with_negatives_alone(rng, num_negatives):
    # The first two rows are one identity. Their cosine lies at the threshold, their
    # negatives far below it. Rank 2256 of 4512 is far beyond what is mined, the first
    # beyond, or within.
    shared = np.sqrt(0.5) * np.eye(400)[[1] * 2 + [0] * 94]
    student = np.float32(shared + np.sqrt(0.5 / 400) * rng.normal(size=(96, 400)))
    teacher = np.float32(rng.normal(size=(96, 8)))
    labels = np.array([0] * 2 + list(range(1, 48)) * 2, np.int32)
    gradients = [
        with_gradient(
            loss_of(
                fprs=[0.5],
                num_negatives=num_negatives,
                temperature=0.3,
                threshold_gradient=attached,
            )
        )(*tensors(student, teacher, labels))[1].numpy()
        for attached in (False, True)
    ]
    moved = np.abs(gradients[1] - gradients[0]).max(axis=1)
    assert moved[2:].max() > 1e-6
    np.testing.assert_allclose(moved[:2], 0, atol=1e-9)


# --- a memory of earlier batches


@pytest.mark.parametrize("run_as", ["graph", slow_xla], indirect=True)
def test_memory_pairs_the_batch_with_earlier_ones(rng, run_as):
    # Against loops: pairs of the newest batch, and of it with the two before.
    miner = PairMiner(fprs=[0.1])
    loss = with_memory(40, thresholds="ema", momentum=1.0, miner=miner)
    step = run_as(with_gradient(loss))
    batches = [batch_of(rng, 20, 6) for _ in range(3)]
    for batch in batches:
        value, _ = step(*tensors(*batch))
    everything = (np.concatenate(x) for x in zip(*batches[::-1]))
    positive, negative = cosines_np(*everything, batch=20)
    thresholds = thresholds_np(negative, [0.1])
    expected = ekd_np(positive, negative, thresholds.reshape(2, 1), 0.1)
    np.testing.assert_allclose(value, sum(expected), rtol=2e-3)


@op_by_op
def test_memory_receives_no_gradient_and_gives_one(rng):
    loss = with_memory(30)
    first, second = batch_of(rng, 30, 5), batch_of(rng, 4, 5)
    loss(*first)
    # Four identities of a batch have no positive among themselves.
    labels = np.arange(4, dtype=np.int32)
    assert terms_of(EKDLoss(memory=0), *second[:2], labels)[0] == 0
    value, gradient = with_gradient(loss)(*tensors(*second[:2], labels))
    assert value > 0 and gradient.shape == (4, 5)
    assert np.abs(gradient).max() > 0
    assert not np.abs(np.sum(gradient * second[0], axis=1)).max() > 1e-4


@op_by_op
def test_memory_keeps_the_newest_rows(rng):
    loss = with_memory(5)
    batches = [batch_of(rng, 3, 2) for _ in range(3)]
    for start, batch in zip((0, 3, 6), batches):
        loss(*batch, np.arange(start, start + 3, dtype=np.int32))
    state = state_of(loss)
    np.testing.assert_array_equal(state["memory_image_ids"], [6, 7, 8, 3, 4])
    newest = [np.concatenate([batches[2][k], batches[1][k][:2]]) for k in range(3)]
    np.testing.assert_allclose(state["memory_student"], unit_np(newest[0]), rtol=1e-5)
    np.testing.assert_allclose(state["memory_teacher"], unit_np(newest[1]), rtol=1e-5)
    np.testing.assert_array_equal(state["memory_labels"], newest[2])


@op_by_op
def test_memory_leaves_out_images_of_the_batch(rng):
    # The one row remembered shows the second image: without it nothing is added.
    student, teacher, _ = batch_of(rng, 4, 2)
    labels, images = np.int32([0, 0, 1, 1]), np.int32([0, 1, 2, 3])
    loss = with_memory(1)
    loss(student[1:2], teacher[1:2], labels[1:2], images[1:2])
    _, monitor = loss(student, teacher, labels, images, with_monitor=True)
    assert (monitor["pairs/positive"], monitor["pairs/negative"]) == (2, 4)
    for variable in (loss.memory_labels, loss.memory_image_ids):
        variable.assign([NO_ROW])
    loss(student[1:2], teacher[1:2], labels[1:2], images[1:2] + 10)
    _, monitor = loss(student, teacher, labels, images, with_monitor=True)
    assert (monitor["pairs/positive"], monitor["pairs/negative"]) == (4, 6)
