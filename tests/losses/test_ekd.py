import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.losses import EKDLoss
from ekd_tf.losses.ekd import attach_thresholds
from ekd_tf.losses.ekd import near_in_rank
from ekd_tf.losses.ekd import rank_differences
from ekd_tf.mining import PairMiner
from ekd_tf.mining.pairs import NO_ROW

op_by_op = pytest.mark.usefixtures("op_by_op")

STATE = ("student_thresholds", "teacher_thresholds", "num_updates")
HISTOGRAMS = ("student_histogram", "teacher_histogram")


# --- the paper's loss as loops over pairs in float64


def unit_np(x):
    x = np.float64(x)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def sigmoid_np(x):
    return 0.5 * (1 + np.tanh(x / 2))


def cosines_np(student, teacher, labels, image_ids=None):
    """Returns (student cosine, teacher cosine) of all positives and all negatives."""
    student, teacher = unit_np(student), unit_np(teacher)
    images = np.arange(len(labels)) if image_ids is None else image_ids
    positive, negative = [], []
    for i, j in itertools.combinations(range(len(labels)), 2):
        pair = (student[i] @ student[j], teacher[i] @ teacher[j])
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


def mined_by(kwargs):
    """Puts the miner's arguments into a miner."""
    names = [name for name in ("fprs", "num_negatives") if name in kwargs]
    if not names:
        return kwargs
    rest = {name: value for name, value in kwargs.items() if name not in names}
    return {**rest, "miner": PairMiner(**{name: kwargs[name] for name in names})}


def published(**kwargs):
    """Returns the paper's form, with averages that have no start-up bias."""
    form = {
        "temperature": 0.01,
        "thresholds": "ema",
        "threshold_gradient": False,
        "memory": 0,
    }
    return EKDLoss(**{**form, **mined_by(kwargs)})


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


# One compilation of the whole loss takes ten seconds: XLA has one test per behaviour.
uncompiled = pytest.mark.parametrize("run_as", ["eager", "graph"], indirect=True)


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


@op_by_op
def test_loss_computed_by_hand():
    # Rows 0 and 1 are one identity. Student cosines 01: 0.6, 02: 0.8, 12: 0; teacher
    # 01: 1, 02: 0, 12: 0. At FPR 0.1 the thresholds are the largest negatives, 0.8 and
    # 0. Temperature 0.1 / ln 3 makes 3^(10 x) the odds at a distance x:
    #   positive: student 1 / (1 + 9) (0.2 below), teacher 1 (1 above): (0.9)^2
    #   negatives: student 1/2 and 1 / (1 + 3^8), teacher 1/2 and 1/2: 0 and about 1/4
    student = np.float32([[1, 0], [0.6, 0.8], [0.8, -0.6]])
    teacher = np.float32([[1, 0], [2, 0], [0, 3]])
    loss = published(
        fprs=[0.1], temperature=0.1 / np.log(3), positive_weight=2, negative_weight=3
    )
    terms = loss(student, teacher, np.int32([7, 7, 9]))
    assert list(terms) == ["ekd/positive", "ekd/negative"]
    np.testing.assert_allclose(terms["ekd/positive"], 2 * 0.81, rtol=1e-4)
    negative = (1 / 2 - 1 / (1 + 3.0**8)) ** 2 / 2
    np.testing.assert_allclose(terms["ekd/negative"], 3 * negative, rtol=1e-4)
    np.testing.assert_allclose(loss.student_thresholds, [0.8], rtol=1e-5)
    np.testing.assert_allclose(loss.teacher_thresholds, [0], atol=1e-6)


@op_by_op
@pytest.mark.parametrize("rows", [2, 3, 17, 64, 90])
def test_matches_loops_over_pairs(rng, rows):
    student, teacher, labels = batch_of(rng, rows, identities=max(rows // 4, 2))
    image_ids = rng.integers(0, max(rows // 2, 2), rows).astype(np.int32)
    loss = published(temperature=0.05, num_negatives=100)
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
        *((16, "graph"), (64, "eager"), (64, "graph"), (64, "xla")),
        *((512, "eager"), (512, "graph"), (512, "xla")),
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
        scale = np.abs(given["grad"]).max()
        np.testing.assert_allclose(
            gradient, given["grad"], rtol=1e-4, atol=1e-5 * scale
        )
        for side in ("student_thresholds", "teacher_thresholds"):
            expected = arrays[f"b{rows}_step{i}_{side}"]
            np.testing.assert_allclose(getattr(loss, side), expected, rtol=1e-5)


def test_batch_size_unknown_while_tracing(golden_arrays):
    arrays = golden_arrays("ekd_official.npz")
    loss = EKDLoss.reference()
    step = tf.function(
        with_gradient(loss),
        input_signature=[
            tf.TensorSpec([None, 32], tf.float32),
            tf.TensorSpec([None, 48], tf.float32),
            tf.TensorSpec([None], tf.int32),
        ],
    )
    for rows in (16, 64, 512):
        for variable in loss.variables:
            variable.assign(tf.zeros_like(variable))
        key = f"b{rows}_step0_"
        value, gradient = step(
            arrays[key + "student"],
            arrays[key + "teacher"],
            np.int32(arrays[key + "labels"]),
        )
        np.testing.assert_allclose(value, arrays[key + "loss"], rtol=1e-5)
        scale = np.abs(arrays[key + "grad"]).max()
        np.testing.assert_allclose(
            gradient, arrays[key + "grad"], rtol=1e-4, atol=1e-5 * scale
        )


# --- what does not matter


@op_by_op
def test_zero_when_the_teacher_is_a_rotated_scaled_student(rng):
    student, _, labels = batch_of(rng, 40, 10)
    rotation, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    teacher = np.float32(3 * student @ rotation)
    np.testing.assert_allclose(
        terms_of(published(), student, teacher, labels), 0, atol=1e-6
    )


@op_by_op
def test_invariant_to_the_scale_of_each_row(rng):
    student, teacher, labels = batch_of(rng, 40, 10)
    scale = np.float32(rng.uniform(0.1, 10, (40, 1)))
    np.testing.assert_allclose(
        terms_of(published(), student * scale, teacher / scale, labels),
        terms_of(published(), student, teacher, labels),
        rtol=1e-3,
    )


@op_by_op
def test_invariant_to_batch_order(rng):
    student, teacher, labels = batch_of(rng, 40, 10)
    image_ids = rng.integers(0, 20, 40)
    order = rng.permutation(40)
    value, gradient = with_gradient(published(temperature=0.05))(
        *tensors(student, teacher, labels, image_ids)
    )
    shuffled, other = with_gradient(published(temperature=0.05))(
        *tensors(student[order], teacher[order], labels[order], image_ids[order])
    )
    np.testing.assert_allclose(value, shuffled, rtol=1e-5)
    scale = np.abs(gradient).max()
    np.testing.assert_allclose(
        np.array(gradient)[order], other, rtol=1e-3, atol=1e-4 * scale
    )


@op_by_op
def test_pairs_of_one_source_image_count_only_for_the_reference(rng):
    student, teacher, _ = batch_of(rng, 12, 3)
    labels = np.repeat(np.int32([0, 1, 2]), 4)
    image_ids = np.int32([0, 0, 1, 2, 3, 3, 4, 5, 6, 6, 6, 6])
    with_repeats = terms_of(published(), student, teacher, labels)
    assert terms_of(published(), student, teacher, labels, image_ids) != with_repeats
    reference = EKDLoss.reference()
    assert terms_of(reference, student, teacher, labels, image_ids) == terms_of(
        EKDLoss.reference(), student, teacher, labels
    )


# --- the gradient


@uncompiled
def test_gradient_matches_central_differences(rng, run_as):
    student, teacher, labels = batch_of(rng, 14, 4)
    loss = published(fprs=[0.3, 0.1, 0.02], temperature=0.2)
    _, gradient = run_as(with_gradient(loss))(*tensors(student, teacher, labels))
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
    loss = published(num_negatives=1, temperature=0.5)
    _, gradient = with_gradient(loss)(*tensors(student, teacher, labels))
    norms = np.linalg.norm(gradient, axis=1)
    assert (norms[:6] > 0).all()
    np.testing.assert_array_equal(norms[6:], [0, 0, 0])


@op_by_op
def test_teacher_receives_no_gradient(rng):
    student, teacher, labels = tensors(*batch_of(rng, 12, 3))
    with tf.GradientTape() as tape:
        tape.watch(teacher)
        total = sum(published(temperature=0.1)(student, teacher, labels).values())
    assert tape.gradient(total, teacher) is None


@op_by_op
def test_thresholds_carry_no_gradient(rng):
    # Cosines moved by the same amount as the thresholds would have no gradient at all.
    student, teacher, labels = batch_of(rng, 12, 3)
    fresh = published(temperature=0.2, momentum=1.0)
    _, gradient = with_gradient(fresh)(*tensors(student, teacher, labels))
    _, frozen = with_gradient(fresh, training=False)(*tensors(student, teacher, labels))
    np.testing.assert_allclose(gradient, frozen, rtol=1e-5, atol=1e-8)


# --- the thresholds


@op_by_op
def test_first_batch_sets_the_thresholds(rng):
    student, teacher, labels = batch_of(rng, 30, 8)
    loss = published()
    loss(student, teacher, labels)
    expected = thresholds_np(cosines_np(student, teacher, labels)[1], loss.miner.fprs)
    np.testing.assert_allclose(loss.student_thresholds, expected[0], atol=1e-6)
    np.testing.assert_allclose(loss.teacher_thresholds, expected[1], atol=1e-6)


@uncompiled
def test_thresholds_are_the_average_over_steps(rng, run_as):
    check_average(rng, run_as, bias_correction=True)


def test_uncorrected_average_starts_at_zero(rng):
    check_average(rng, tf.function, bias_correction=False)


def check_average(rng, run_as, bias_correction):
    loss = published(
        fprs=[0.1, 0.02], momentum=0.3, bias_correction=bias_correction, name="mine"
    )
    step = run_as(lambda *x: loss(*x))
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


def weighted_quantile_np(cosines, weights, fpr):
    """Returns the cosine above which `fpr` of the weight lies."""
    order = np.argsort(-cosines)
    above = np.cumsum(weights[order])
    return cosines[order][np.searchsorted(above, fpr * above[-1])]


def test_histogram_thresholds_match_a_sort_of_all_steps(rng):
    check_histogram(rng, tf.function, momentum=1e-9)


def test_histogram_forgets_old_steps(rng, run_as):
    check_histogram(rng, run_as, momentum=0.2)


def check_histogram(rng, run_as, momentum):
    fprs = [1e-1, 1e-2, 1e-3, 1e-4]
    loss = published(fprs=fprs, momentum=momentum, thresholds="histogram")
    step = run_as(lambda *x: loss(*x))
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
        expected = [weighted_quantile_np(cosines[row], weights, f) for f in fprs]
        # A bin, and the gap to the neighbouring cosine where they are sparse.
        np.testing.assert_allclose(got[:3], expected[:3], rtol=0, atol=2.0**-10)
        np.testing.assert_allclose(got[3], expected[3], rtol=0, atol=2.0**-7)


@op_by_op
def test_histogram_resolves_rates_a_batch_cannot(rng):
    # 32 rows have fewer than 500 negatives: the batch's own threshold at 1e-3 is its
    # maximum, far above the rate asked for.
    loss = published(fprs=[1e-3], momentum=1e-9, thresholds="histogram")
    own = published(fprs=[1e-3])
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


@op_by_op
@pytest.mark.parametrize("thresholds", ["ema", "histogram"])
def test_evaluation_leaves_the_state_alone(rng, thresholds):
    loss = published(thresholds=thresholds)
    loss(*batch_of(rng, 20, 5))
    before = state_of(loss)
    loss(*batch_of(rng, 20, 5), training=False)
    assert len(before) == (3 if thresholds == "ema" else 5)
    for name, value in state_of(loss).items():
        np.testing.assert_array_equal(value, before[name])


@pytest.fixture(scope="module", params=["eager", "graph", "xla"])
def shared(request):
    """Returns a loss and its step for four rows, compiled once for several tests."""
    loss = published(temperature=0.1, momentum=0.5)
    step = terms_and_gradients(loss)
    if request.param != "eager":
        step = tf.function(step, jit_compile=request.param == "xla")
    return loss, step


def test_unusable_batches_leave_the_state_alone(rng, shared):
    check_unusable(rng, *shared)


def test_unusable_batches_leave_the_histogram_alone(rng):
    loss = published(momentum=0.5, thresholds="histogram")
    check_unusable(rng, loss, tf.function(terms_and_gradients(loss)))


def check_unusable(rng, loss, step):
    for variable in loss.variables:
        variable.assign(tf.zeros_like(variable))

    def four_rows():
        student, teacher, _ = batch_of(rng, 4, 4)
        return student, teacher, np.int32([0, 0, 1, 2]), np.arange(4, dtype=np.int32)

    step(*tensors(*four_rows()))
    before = state_of(loss)
    for harm in ("no negatives", "nan student", "infinite teacher"):
        student, teacher, labels, images = four_rows()
        if harm == "no negatives":
            labels[:] = 3
        elif harm == "nan student":
            student[2, 1] = np.nan
        else:
            teacher[3] = np.inf
        step(*tensors(student, teacher, labels, images))
        for name, value in state_of(loss).items():
            np.testing.assert_array_equal(value, before[name], err_msg=harm)
    step(*tensors(*four_rows()))
    assert float(loss.num_updates) == 2
    assert not np.array_equal(loss.student_thresholds, before["student_thresholds"])


@op_by_op
def test_a_student_that_is_not_finite_shows_in_the_loss(rng):
    student, teacher, labels = batch_of(rng, 10, 3)
    student[2, 1] = np.nan
    positive, negative = terms_of(published(), student, teacher, labels)
    assert np.isnan(positive) and np.isnan(negative)


# --- degenerate batches, all of one shape so that each mode compiles once

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


def terms_and_gradients(loss):
    def step(*batch):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(batch[0])
            terms = loss(*batch)
        return terms, {name: tape.gradient(terms[name], batch[0]) for name in terms}

    return step


def check_degenerate(step, loss, kind, student, teacher, labels, image_ids, zero_terms):
    for variable in loss.variables:
        variable.assign(tf.zeros_like(variable))
    terms, gradients = step(
        *tensors(
            *(np.float32(student), np.float32(teacher)),
            *(np.int32(labels), np.int32(image_ids)),
        )
    )
    for name in terms:
        assert np.isfinite(terms[name]) and np.isfinite(gradients[name]).all(), kind
    for name in zero_terms:
        assert float(terms[name]) == 0.0, kind
        np.testing.assert_array_equal(gradients[name], np.zeros(np.shape(student)))
    for variable in loss.variables:
        assert np.isfinite(np.array(variable)).all(), kind


def test_degenerate_batches_stay_finite(rng, shared):
    check_degenerate_batches(rng, *shared)


def test_degenerate_batches_stay_finite_with_a_histogram(rng):
    loss = published(temperature=0.1, thresholds="histogram")
    check_degenerate_batches(rng, loss, tf.function(terms_and_gradients(loss)))


def check_degenerate_batches(rng, loss, step):
    for kind, *batch in degenerate_batches(rng):
        check_degenerate(step, loss, kind, *batch, ZERO_TERMS.get(kind, []))


@op_by_op
def test_batch_of_one_has_no_loss(rng):
    loss = published(temperature=0.1)
    step = terms_and_gradients(loss)
    student, teacher, _ = batch_of(rng, 1, 1)
    zero_terms = ["ekd/positive", "ekd/negative"]
    check_degenerate(step, loss, "one", student, teacher, [3], [0], zero_terms)


# --- precision and modes


@op_by_op
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_computes_in_float32_under_mixed_precision(rng, mixed_policy, policy):
    mixed_policy(policy)
    dtype = policy.removeprefix("mixed_")
    student, teacher, labels = batch_of(rng, 30, 8)
    half = [tf.cast(x, dtype) for x in (student, teacher)]
    full = [tf.cast(x, "float32") for x in half]
    loss, expected = published(), published()
    got = loss(*half, labels)
    want = expected(*full, labels)
    for name in want:
        assert got[name].dtype == tf.float32
        np.testing.assert_allclose(got[name], want[name], rtol=1e-6)
    for name in STATE:
        assert getattr(loss, name).dtype == "float32"
        np.testing.assert_array_equal(getattr(loss, name), getattr(expected, name))


@op_by_op
def test_half_precision_students_get_a_gradient_of_their_type(rng):
    student, teacher, labels = tensors(*batch_of(rng, 12, 3))
    student = tf.cast(student, tf.float16)
    _, gradient = with_gradient(published(temperature=0.1))(student, teacher, labels)
    assert gradient.dtype == tf.float16 and np.abs(gradient).max() > 0


# --- what is watched


@op_by_op
def test_monitor_names_every_rate():
    rows = np.eye(4, dtype=np.float32)
    loss = published(fprs=[1e-3, 0.015, 0.5])
    _, monitor = loss(rows, rows, np.int32([0, 0, 1, 1]), with_monitor=True)
    prefixes = [
        *("threshold/student", "threshold/teacher"),
        *("batch_tpr/student", "batch_tpr/teacher"),
        *("critical/positive", "critical/negative"),
    ]
    names = {f"{p}/fpr_{f}" for p in prefixes for f in ("1e-3", "1.5e-2", "5e-1")}
    names |= {"critical/positive", "critical/negative"}
    names |= {"pairs/positive", "pairs/negative"}
    assert set(monitor) == names


@op_by_op
def test_monitor_computed_by_hand():
    # As in `test_loss_computed_by_hand`: at the thresholds 0.8 (student) and 0
    # (teacher) the positive pair passes for the teacher alone, no negative passes.
    student = np.float32([[1, 0], [0.6, 0.8], [0.8, -0.6]])
    teacher = np.float32([[1, 0], [2, 0], [0, 3]])
    loss = published(fprs=[0.1])
    # Half a key step may put a threshold to either side of its own pair.
    loss.student_thresholds.assign([0.8001])
    loss.teacher_thresholds.assign([0.0001])
    labels = np.int32([7, 7, 9])
    _, monitor = loss(student, teacher, labels, training=False, with_monitor=True)
    np.testing.assert_allclose(monitor.pop("threshold/student/fpr_1e-1"), 0.8001)
    np.testing.assert_allclose(monitor.pop("threshold/teacher/fpr_1e-1"), 0.0001)
    assert {name: float(value) for name, value in monitor.items()} == {
        "batch_tpr/student/fpr_1e-1": 0,
        "batch_tpr/teacher/fpr_1e-1": 1,
        "critical/positive/fpr_1e-1": 1,
        "critical/negative/fpr_1e-1": 0,
        "critical/positive": 1,
        "critical/negative": 0,
        "pairs/positive": 1,
        "pairs/negative": 2,
    }


# --- saving

ARGUMENTS = {
    "fprs": [0.2, 0.003],
    "temperature": 0.03,
    "num_negatives": 7,
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


def test_config_round_trip():
    made = published(**ARGUMENTS)
    config = keras.saving.serialize_keras_object(made)
    loss = keras.saving.deserialize_keras_object(config)
    assert type(loss) is EKDLoss
    for name, value in ARGUMENTS.items():
        if name not in ("fprs", "num_negatives"):
            assert getattr(loss, name) == value
    assert (loss.miner.fprs, loss.miner.num_negatives) == ((0.2, 0.003), 7)


@op_by_op
@pytest.mark.parametrize("thresholds", ["ema", "histogram"])
def test_state_is_saved_with_the_run(rng, tmp_path, thresholds):
    batches = [batch_of(rng, 16, 4) for _ in range(3)]
    loss = published(thresholds=thresholds, momentum=0.2)
    for batch in batches[:2]:
        loss(*batch)
    path = tf.train.Checkpoint(loss=loss).save(str(tmp_path / "run"))
    resumed = published(thresholds=thresholds, momentum=0.2)
    tf.train.Checkpoint(loss=resumed).restore(path).assert_consumed()
    copied = published(thresholds=thresholds, momentum=0.2)
    copied.set_weights(loss.get_weights())
    expected = terms_of(loss, *batches[2])
    for other in (resumed, copied):
        assert terms_of(other, *batches[2]) == expected
        for name, value in state_of(other).items():
            np.testing.assert_array_equal(value, state_of(loss)[name])


def test_state_is_never_trained():
    loss = published(thresholds="histogram")
    assert loss.trainable_variables == []
    assert {v.name.split(":")[0] for v in loss.non_trainable_variables} == {
        *STATE,
        *HISTOGRAMS,
    }
    assert loss.student_thresholds.shape == loss.teacher_thresholds.shape == (6,)


# --- wrong arguments


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"temperature": 0}, r"`temperature` must be in \(0, inf\)"),
        ({"momentum": 0}, r"`momentum` must be in \(0, 1\]"),
        ({"momentum": 1.5}, r"`momentum` must be in \(0, 1\]"),
        ({"positive_weight": -1}, r"`positive_weight` must be in \[0, inf\)"),
        ({"negative_weight": -1}, r"`negative_weight` must be in \[0, inf\)"),
        ({"num_negatives": 0}, r"`num_negatives` must be in \[1, inf\)"),
        ({"fprs": [1.0]}, r"`fprs` must be in \(0, 1\)"),
        ({"thresholds": "hist"}, "`thresholds` must be one of 'ema', 'histogram'"),
    ],
)
def test_rejects_arguments_outside_their_range(arguments, words):
    with pytest.raises(ValueError, match=words):
        published(**arguments)


def test_reference_fixes_its_arguments():
    loss = EKDLoss.reference(student_dim=5, teacher_dim=8)
    assert (loss.temperature, loss.thresholds, loss.memory) == (0.01, "ema", 0)
    assert not loss.threshold_gradient and not loss.bias_correction
    with pytest.raises(TypeError, match="unexpected keyword argument 'temperature'"):
        EKDLoss.reference(temperature=0.02)


def test_needs_labels(rng):
    student, teacher, _ = batch_of(rng, 4, 2)
    with pytest.raises(ValueError, match="EKDLoss needs `labels`"):
        published()(student, teacher)


# --- thresholds that pass their gradient on


def test_attached_thresholds_reward_no_rise_of_every_cosine(rng, run_as):
    # Raising all cosines alike takes no positive past a negative. Detached thresholds
    # reward it all the same; attached ones rise with their negatives.
    positives = tf.constant(rng.uniform(0.2, 0.8, 20), tf.float32)
    hardest = tf.constant(np.sort(rng.uniform(-0.2, 0.6, 50))[::-1].copy(), tf.float32)
    ranks = tf.constant([20, 5])
    thresholds = tf.gather(hardest, ranks)

    @run_as
    def grad(rise):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(rise)
            near = near_in_rank(ranks, tf.ones(50, tf.bool))
            attached = attach_thresholds(thresholds, hardest + rise, near)
            losses = [
                tf.reduce_mean(
                    rank_differences(
                        positives + rise, tf.ones(20), used, thresholds, 0.1
                    )
                )
                for used in (thresholds, attached)
            ]
        return [tape.gradient(loss, rise) for loss in losses]

    detached, attached = grad(tf.constant(0.0))
    assert float(detached) < -0.5
    np.testing.assert_allclose(attached, 0.0, atol=1e-5)


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
    loss = published(temperature=0.1, momentum=0.05, **kwargs)

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
    slopes = []
    for gradient in (False, True):
        loss = EKDLoss(
            memory=0,
            temperature=0.1,
            threshold_gradient=gradient,
            miner=PairMiner(fprs=[1e-1]),
        )
        loss.negative_weight = 0.0
        with tf.GradientTape() as tape:
            rise = tf.constant(0.0)
            tape.watch(rise)
            # A direction all rows share takes every cosine up; the lowest most, which
            # is all that is left to reward.
            unit = tf.math.l2_normalize(student, axis=1)
            raised = tf.concat([unit, tf.fill([300, 1], rise + 0.3)], axis=1)
            total = sum(loss(raised, teacher, labels).values())
        slopes.append(float(tape.gradient(total, rise)))
    assert slopes[0] < 0 and abs(slopes[1]) < 0.4 * abs(slopes[0])


@op_by_op
def test_attached_thresholds_change_no_value(rng):
    batch = batch_of(rng, 40, 10)
    plain, attached = published(), published(threshold_gradient=True)
    for _ in range(3):
        assert terms_of(plain, *batch) == terms_of(attached, *batch)
    for name, value in state_of(plain).items():
        np.testing.assert_array_equal(value, state_of(attached)[name])


@op_by_op
def test_attached_thresholds_keep_gradients_within_the_mined_pairs(rng):
    # One mined negative and no positive: two rows at most move.
    student, teacher, _ = batch_of(rng, 12, 3)
    labels = np.arange(12, dtype=np.int32)
    loss = published(
        fprs=[1e-3], num_negatives=1, temperature=0.5, threshold_gradient=True
    )
    _, gradient = with_gradient(loss)(*tensors(student, teacher, labels))
    assert np.count_nonzero(np.abs(gradient).sum(axis=1)) <= 2


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
            published(
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


@uncompiled
def test_attached_thresholds_stay_finite_on_degenerate_batches(rng, run_as):
    loss = published(threshold_gradient=True)
    check_degenerate_batches(rng, loss, run_as(terms_and_gradients(loss)))


# --- a memory of earlier batches


def with_memory(rows, **kwargs):
    return EKDLoss(memory=rows, student_dim=5, teacher_dim=8, **mined_by(kwargs))


def test_memory_pairs_the_batch_with_earlier_ones(rng, run_as):
    # Against loops: pairs of the newest batch, and of it with the two before.
    loss = with_memory(40, temperature=0.1, thresholds="ema", momentum=1.0, fprs=[0.1])
    step = run_as(lambda *batch: loss(*batch))
    batches = [batch_of(rng, 20, 6) for _ in range(3)]
    for batch in batches:
        terms = step(*tensors(*batch))
    student, teacher, labels = (np.concatenate(x) for x in zip(*batches[::-1]))
    positive, negative = [], []
    for (i, a), (j, b) in itertools.combinations(enumerate(zip(student, teacher)), 2):
        if i < 20:
            cosines = [unit_np([x])[0] @ unit_np([y])[0] for x, y in zip(a, b)]
            (positive if labels[i] == labels[j] else negative).append(tuple(cosines))
    thresholds = thresholds_np(negative, [0.1])
    expected = ekd_np(positive, negative, thresholds.reshape(2, 1), 0.1)
    np.testing.assert_allclose([float(t) for t in terms.values()], expected, rtol=2e-3)


@op_by_op
def test_memory_receives_no_gradient_and_gives_one(rng):
    loss, alone = with_memory(30, temperature=0.1), EKDLoss(memory=0)
    first, second = batch_of(rng, 30, 5), batch_of(rng, 4, 5)
    loss(*first)
    # Four identities of a batch have no positive among themselves.
    labels = np.arange(4, dtype=np.int32)
    positive, _ = terms_of(alone, *second[:2], labels)
    assert positive == 0
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


@op_by_op
@pytest.mark.parametrize("training", [True, False])
def test_memory_takes_in_no_spoiled_batch_and_none_of_an_evaluation(rng, training):
    loss = with_memory(6)
    loss(*batch_of(rng, 4, 2))
    before = state_of(loss)
    student, teacher, labels = batch_of(rng, 4, 2)
    if training:
        student[1, 1] = np.nan
    loss(student, teacher, labels, training=training)
    for name, value in state_of(loss).items():
        np.testing.assert_array_equal(value, before[name])


def test_memory_with_a_batch_size_unknown_while_tracing(rng):
    fixed, free = with_memory(16, temperature=0.1), with_memory(16, temperature=0.1)
    spec = [tf.TensorSpec([None, n]) for n in (5, 8)] + [tf.TensorSpec([None], "int32")]
    step = tf.function(with_gradient(free), input_signature=spec, autograph=False)
    for rows in (9, 30, 12):
        batch = tensors(*batch_of(rng, rows, 4))
        value, gradient = with_gradient(fixed)(*batch)
        other, of_other = step(*batch)
        np.testing.assert_allclose(other, value, rtol=1e-5)
        np.testing.assert_allclose(of_other, gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (
            {"memory": -1, "student_dim": 4, "teacher_dim": 4},
            r"`memory` must be in \[0, inf\)",
        ),
        (
            {"memory": 9, "student_dim": 4},
            "`memory` needs `student_dim` and `teacher_d",
        ),
    ],
)
def test_memory_rejects_wrong_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        EKDLoss(**arguments)
