import functools

import eager
import losses_numpy as reference
import numpy as np
import pytest
import tensorflow as tf
from losses_numpy import unit
from refusals import refused
from toys import scatter
from toys import two_models
from toys import value_and_gradient
from toys import with_gradient

from ekd_tf.losses import EKDLoss
from ekd_tf.losses.ekd import attach_thresholds
from ekd_tf.losses.ekd import near_thresholds
from ekd_tf.losses.ekd import rank_differences
from ekd_tf.mining import PairMiner
from ekd_tf.mining.miner import NO_ROW
from ekd_tf.ops.collective import gather_rows
from ekd_tf.ops.collective import num_replicas

op_by_op = pytest.mark.usefixtures("op_by_op")
# XLA compiles the whole loss in half a minute; smaller cases run by default.
slow_xla = pytest.param("xla", marks=pytest.mark.slow)


def test_steps_of_other_numbers_of_pairs_are_traced_once(rng, monkeypatch):
    traces = []

    def count(*arguments):
        traces.append(arguments)
        return rank_differences(*arguments)

    monkeypatch.setattr("ekd_tf.losses.ekd.rank_differences", count)
    loss = EKDLoss(memory=0)
    for identities in (1, 2, 3, 4, 5, 6):
        labels = np.arange(12) % identities
        loss(rng.normal(size=(12, 4)), rng.normal(size=(12, 6)), labels)
    # The second trace takes any number.
    assert len(traces) == 2


def loss_of(fprs=None, num_negatives=2000, **kwargs):
    """Returns the paper's form, without start-up bias, or another."""
    form = dict(temperature=0.01, thresholds="ema", threshold_gradient=False, memory=0)
    miner = PairMiner(num_negatives=num_negatives, **({"fprs": fprs} if fprs else {}))
    return EKDLoss(**{**form, "miner": miner, **kwargs})


def with_memory(rows, **kwargs):
    return EKDLoss(memory=rows, student_dim=5, teacher_dim=8, **kwargs)


batch_of = functools.partial(two_models, teacher_dim=8)


def terms_of(loss, *batch, **kwargs):
    return tuple(float(value) for value in loss(*batch, **kwargs).values())


def state_of(loss):
    # Keras 2 adds ":0" to names.
    return {v.name.split(":")[0]: np.array(v) for v in loss.variables}


@op_by_op
def test_loss_computed_by_hand():
    # Rows 0 and 1 are one identity. Student cosines 01: 0.6, 02: 0.8, 12: 0; teacher
    # 01: 1, 02: 0, 12: 0. At FPR 0.1 the thresholds are the largest negatives, 0.8 and
    # 0. Temperature 0.1 / ln 3 makes 3^(10 x) the odds at a distance x:
    #   positive: student 1 / (1 + 9) (0.2 below), teacher 1 (1 above): (0.9)^2
    #   negatives: student 1/2 and 1 / (1 + 3^8), teacher 1/2 and 1/2: 0 and about 1/4
    student = np.float32([[1, 0], [0.6, 0.8], [0.8, -0.6]])
    teacher = np.float32([[1, 0], [2, 0], [0, 3]])
    weights = {"positive_weight": 2, "negative_weight": 3}
    loss = loss_of(fprs=[0.1], temperature=0.1 / np.log(3), **weights)
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
@pytest.mark.parametrize("rows", [2, 3, 90])
def test_matches_loops_over_pairs(rng, rows):
    student, teacher, labels = batch_of(rng, rows, identities=max(rows // 4, 2))
    image_ids = rng.integers(0, max(rows // 2, 2), rows).astype(np.int32)
    loss = loss_of(temperature=0.05, num_negatives=100)
    got = terms_of(loss, student, teacher, labels, image_ids)
    positive, negative = reference.ekd_cosines(student, teacher, labels, image_ids)
    thresholds = reference.ekd_thresholds(negative, loss.miner.fprs)
    expected = reference.ekd(positive, negative, thresholds, 0.05, 100)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(
    "rows, run_as",
    [
        *[(16, "graph"), (64, "eager"), (512, "graph")],
        pytest.param(512, "xla", marks=pytest.mark.slow),
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
        batch = given["student"], given["teacher"], np.int32(given["labels"])
        value, gradient = step(*batch)
        np.testing.assert_allclose(value, given["loss"], rtol=1e-5)
        atol = 1e-5 * np.abs(given["grad"]).max()
        np.testing.assert_allclose(gradient, given["grad"], rtol=1e-4, atol=atol)
        for side in ("student_thresholds", "teacher_thresholds"):
            expected = arrays[f"b{rows}_step{i}_{side}"]
            np.testing.assert_allclose(getattr(loss, side), expected, rtol=1e-5)


def test_batch_size_unknown_while_tracing(rng):
    fixed, free = with_memory(16), with_memory(16)
    spec = [tf.TensorSpec([None, n]) for n in (5, 8)] + [tf.TensorSpec([None], "int32")]
    step = tf.function(with_gradient(free), input_signature=spec, autograph=False)
    for rows in (9, 30):
        batch = batch_of(rng, rows, 4)
        with eager.op_by_op():
            value, gradient = with_gradient(fixed)(*batch)
        other, of_other = step(*batch)
        np.testing.assert_allclose(other, value, rtol=1e-5)
        np.testing.assert_allclose(of_other, gradient, rtol=1e-4, atol=1e-7)


@op_by_op
def test_pairs_of_one_source_image_count_only_for_the_reference(rng):
    batch = batch_of(rng, 12, 3)
    image_ids = np.arange(12, dtype=np.int32) // 2
    for make, alike in ((loss_of, False), (EKDLoss.reference, True)):
        one, other = terms_of(make(), *batch), terms_of(make(), *batch, image_ids)
        assert (one == other) == alike


@op_by_op
@pytest.mark.parametrize("bias_correction", [True, False])
def test_thresholds_are_the_average_over_steps(rng, bias_correction):
    form = dict(momentum=0.3, bias_correction=bias_correction, name="mine")
    loss = loss_of([0.1, 0.02], **form)
    average = np.zeros((2, 2))
    for i in range(4):
        batch = batch_of(rng, 20, 6)
        terms = loss(*batch)
        pairs = reference.ekd_cosines(*batch)
        newest = reference.ekd_thresholds(pairs[1], loss.miner.fprs)
        average = 0.7 * average + 0.3 * newest
        expected = average / (1 - 0.7 ** (i + 1)) if bias_correction else average
        np.testing.assert_allclose(loss.student_thresholds, expected[0], atol=2e-6)
        np.testing.assert_allclose(loss.teacher_thresholds, expected[1], atol=2e-6)
        # They are updated before they are used.
        values = [float(terms["mine/positive"]), float(terms["mine/negative"])]
        np.testing.assert_allclose(values, reference.ekd(*pairs, expected), rtol=1e-2)


@op_by_op
@pytest.mark.parametrize("momentum", [1e-9, 0.2])
def test_histogram_thresholds_match_a_sort_of_all_steps(rng, momentum):
    fprs = [1e-1, 1e-2, 1e-3, 1e-4]
    loss = loss_of(fprs=fprs, momentum=momentum, thresholds="histogram")
    cosines, weights = np.zeros((2, 0)), np.zeros(0)
    for _ in range(6):
        student, teacher, labels = batch_of(rng, 64, 16, student_dim=32, teacher_dim=48)
        loss(student, teacher, labels)
        upper = np.triu(labels[:, None] != labels[None, :], 1)
        batch = [(unit(x) @ unit(x).T)[upper] for x in (student, teacher)]
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


# Degenerate batches that have pairs of both kinds are in test_conformance.
@pytest.mark.parametrize(
    "memory, run_as", [(0, "xla"), (6, "graph")], indirect=["run_as"]
)
def test_empty_terms_are_zero_and_unusable_batches_move_nothing(rng, run_as, memory):
    loss = loss_of(temperature=0.1, momentum=0.5)
    if memory:
        loss = with_memory(memory, momentum=0.5)

    step = run_as(value_and_gradient(loss))

    def run(labels=(0, 0, 1, 2), images=range(4), bad_student=0.0, bad_teacher=0.0):
        student, teacher, _ = batch_of(rng, 4, 4)
        student[2, 1] += bad_student
        teacher[3] += bad_teacher
        return step(student, teacher, np.int32(labels), np.int32(images))

    fresh = state_of(loss)
    for empty, labels, images in (
        ("ekd/positive", [0, 1, 2, 3], range(4)),
        ("ekd/negative", [1] * 4, range(4)),
        # One image alone.
        ("ekd/positive", [1, 1, 2, 3], [7] * 4),
    ):
        for variable, value in zip(loss.variables, fresh.values()):
            variable.assign(value)
        terms, gradient = run(labels, images)
        assert np.isfinite(list(terms.values())).all() and np.isfinite(gradient).all()
        assert [name for name in terms if float(terms[name]) == 0.0] == [empty]
    updates = float(loss.num_updates)
    run()
    before = state_of(loss)
    # With a memory there are negatives whatever the labels.
    harms = [{"bad_student": np.nan}, {"bad_teacher": np.inf}]
    for harm in [*harms, *([] if memory else [{"labels": [3] * 4}])]:
        terms, _ = run(**harm)
        assert np.isnan(terms["ekd/negative"]) == ("labels" not in harm)
        for name, value in state_of(loss).items():
            np.testing.assert_array_equal(value, before[name], err_msg=str(harm))
    run()
    assert float(loss.num_updates) == updates + 2
    assert not np.array_equal(loss.student_thresholds, before["student_thresholds"])


def test_sizes_of_the_memory_are_those_of_the_rows(rng):
    batch = batch_of(rng, 4)
    for sizes in ((8, 5), (5, 9)):
        refused(f"5 and 8. Received: student_dim={sizes[0]}", EKDLoss(*sizes), *batch)


def test_config_keeps_the_miner():
    loss = EKDLoss.from_config(loss_of(fprs=[0.2, 0.003], num_negatives=7).get_config())
    assert (loss.miner.fprs, loss.miner.num_negatives) == ((0.2, 0.003), 7)


def test_attached_thresholds_move_with_the_negatives_around_them(run_as):
    # Two positives, then 50 negatives. Place 4: two to either side, a fifth each.
    # Place 0: three from the top. Place 40: a quarter of it to either side.
    thresholds = tf.constant([0.3, 0.8, 0.1])
    positions = tf.constant([4, 0, 40])

    def step(cosines):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(cosines)
            near = near_thresholds(positions, tf.range(52) - 2)
            columns = tf.unstack(attach_thresholds(thresholds, cosines, near))
        return columns, [tape.gradient(column, cosines) for column in columns]

    values, gradients = run_as(step)(tf.linspace(0.9, 0.0, 52))
    np.testing.assert_array_equal(values, thresholds)
    places = np.arange(-2, 50)
    for gradient, first, last in zip(gradients, (2, 0, 30), (6, 2, 49)):
        inside = (places >= first) & (places <= last)
        np.testing.assert_allclose(gradient, inside / inside.sum(), rtol=1e-6)


@op_by_op
@pytest.mark.parametrize("num_negatives", [2000, 10_000])
def test_raising_every_cosine_of_a_large_batch_is_not_rewarded(rng, num_negatives):
    # 100 identities, 300 rows: FPR 0.1 has 4,460 negatives, mined or far fewer mined.
    _, teacher, labels = batch_of(rng, 300, 100)
    student = np.float32(teacher + 2 * rng.normal(size=teacher.shape))
    form = dict(temperature=0.1, thresholds="histogram", negative_weight=0.0)
    values, slopes = [], []
    for attached in (False, True):
        loss = loss_of([0.1], num_negatives, threshold_gradient=attached, **form)
        with tf.GradientTape() as tape:
            rise = tf.constant(0.0)
            tape.watch(rise)
            # A direction all rows share takes every cosine up; the lowest most, which
            # is all that is left to reward.
            rows = tf.math.l2_normalize(student, axis=1)
            raised = tf.concat([rows, tf.fill([300, 1], rise + 0.3)], axis=1)
            total = sum(loss(raised, teacher, labels).values())
        slopes.append(float(tape.gradient(total, rise)))
        values.append(float(total))
    assert values[0] == values[1]
    assert slopes[0] < 0 and abs(slopes[1]) < 0.4 * abs(slopes[0])


@op_by_op
def test_attached_thresholds_move_with_negatives_alone(rng):
    # The first two rows are one identity. Their cosine lies at the threshold, their
    # negatives far below it. Rank 2256 of 4512 is far beyond what is mined.
    shared = np.sqrt(0.5) * np.eye(400)[[1] * 2 + [0] * 94]
    student = np.float32(shared + np.sqrt(0.5 / 400) * rng.normal(size=(96, 400)))
    teacher = np.float32(rng.normal(size=(96, 8)))
    labels = np.array([0] * 2 + list(range(1, 48)) * 2, np.int32)
    gradients = []
    for attached in (False, True):
        loss = loss_of([0.5], 10, temperature=0.3, threshold_gradient=attached)
        gradients.append(with_gradient(loss)(student, teacher, labels)[1])
    moved = np.abs(gradients[1] - gradients[0]).max(axis=1)
    assert moved[2:].max() > 1e-6
    np.testing.assert_allclose(moved[:2], 0, atol=1e-9)


@pytest.mark.parametrize("run_as", ["graph", slow_xla], indirect=True)
def test_memory_pairs_the_batch_with_earlier_ones(rng, run_as):
    # Against loops: pairs of the newest batch, and of it with the two before.
    miner = PairMiner(fprs=[0.1])
    loss = with_memory(40, thresholds="ema", momentum=1.0, miner=miner)
    step = run_as(with_gradient(loss))
    batches = [batch_of(rng, 20, 6) for _ in range(3)]
    for batch in batches:
        value, _ = step(*batch)
    everything = (np.concatenate(x) for x in zip(*batches[::-1]))
    positive, negative = reference.ekd_cosines(*everything, batch=20)
    thresholds = reference.ekd_thresholds(negative, [0.1])
    expected = reference.ekd(positive, negative, thresholds.reshape(2, 1), 0.1)
    np.testing.assert_allclose(value, sum(expected), rtol=2e-3)


@op_by_op
def test_memory_keeps_the_newest_rows(rng):
    loss = with_memory(5)
    batches = [batch_of(rng, 3, 2) for _ in range(3)]
    for start, batch in zip((0, 3, 6), batches):
        loss(*batch, np.arange(start, start + 3, dtype=np.int32))
    state, models = state_of(loss), ("student", "teacher")
    names = {f"{model}_{x}" for model in models for x in ("thresholds", "histogram")}
    names |= {f"memory_{x}" for x in (*models, "labels", "image_ids")}
    assert state.keys() == {*names, "num_updates"} and not loss.trainable_variables
    np.testing.assert_array_equal(state["memory_image_ids"], [6, 7, 8, 3, 4])
    newest = [np.concatenate([batches[2][k], batches[1][k][:2]]) for k in range(3)]
    np.testing.assert_allclose(state["memory_student"], unit(newest[0]), rtol=1e-5)
    np.testing.assert_allclose(state["memory_teacher"], unit(newest[1]), rtol=1e-5)
    np.testing.assert_array_equal(state["memory_labels"], newest[2])
    loss(*batches[0], np.arange(3, dtype=np.int32), training=False)
    for name, value in state_of(loss).items():
        np.testing.assert_array_equal(value, state[name])


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


def test_replicas_compute_what_one_device_does(rng, two_replicas):
    weights = tf.constant(rng.normal(size=(6, 5)), tf.float32)
    alone = with_memory(50, momentum=0.3)
    with two_replicas.scope():
        shared = with_memory(50, momentum=0.3)

    def replica_step(loss, *batch):
        """What a trainer does on a replica: a linear student, its share of the loss."""

        def share(weights):
            inputs, *others = batch
            rows = map(gather_rows, (tf.matmul(inputs, weights), *others))
            return sum(loss(*rows).values()) / num_replicas()

        return value_and_gradient(share)(weights)

    replica = functools.partial(replica_step, shared)
    step = tf.function(lambda *batch: two_replicas.run(replica, args=batch))
    for _ in range(3):
        batch = *batch_of(rng, 16, 5, student_dim=6), np.int32(np.arange(16) // 2 * 2)
        expected, gradient = replica_step(alone, *batch)
        shares, gradients = step(*(scatter(two_replicas, rows) for rows in batch))
        total = sum(two_replicas.experimental_local_results(shares))
        summed = sum(two_replicas.experimental_local_results(gradients))
        np.testing.assert_allclose(total, expected, rtol=1e-5)
        scale = np.abs(gradient).max()
        np.testing.assert_allclose(summed, gradient, rtol=1e-4, atol=1e-5 * scale)
        for one, many in zip(alone.variables, shared.variables):
            np.testing.assert_allclose(np.array(many), np.array(one), atol=1e-6)


def test_averages_of_a_tiny_momentum_start_at_the_first_batch(rng):
    student, teacher, labels = batch_of(rng, 12)
    found = []
    for momentum in (1.0, 1e-8):
        loss = loss_of([0.1], momentum=momentum)
        for _ in range(2):
            loss(student, teacher, labels)
        found.append(float(loss.student_thresholds[0]))
    assert found[1] == pytest.approx(found[0], abs=1e-6)
