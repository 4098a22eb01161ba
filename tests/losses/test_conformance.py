"""What every distillation loss promises, whatever its formula."""

import collections
import functools
import inspect

import keras
import losses_numpy as reference
import numpy as np
import pytest
import tensorflow as tf
from refusals import refused
from toys import two_models
from toys import with_gradient

from ekd_tf import losses
from ekd_tf.keras_compat import tf_variable

ROWS, STUDENT_DIM, TEACHER_DIM, IDENTITIES = 6, 5, 7, 4


# How to make a loss of embeddings of equal size, and arguments unlike their defaults.
Case = collections.namedtuple("Case", "make changed")


def centres_of(identities=IDENTITIES, dim=STUDENT_DIM):
    return np.float32(np.random.default_rng(3).normal(size=(identities, dim)))


def with_centres(loss_class, **changed):
    return Case(
        lambda **kw: loss_class(**{"centres": centres_of(), **kw}),
        {"scale": 16.0, "student_dim": 3, **changed},
    )


SIZES = {"student_dim": 3, "teacher_dim": 4}
# Thresholds that are the batch's own, and constants in the gradient.
PLAIN_EKD = {"memory": 0, "thresholds": "ema", "threshold_gradient": False}
CASES = {
    "ekd": Case(
        lambda **kw: losses.EKDLoss(**{**PLAIN_EKD, **kw}),
        {
            "temperature": 0.03,
            "momentum": 0.2,
            "positive_weight": 0.5,
            "negative_weight": 0.0,
            "thresholds": "ema",
            "threshold_gradient": False,
            "bias_correction": False,
            "same_image_pairs": True,
            "memory": 3,
            "student_dim": 5,
            "teacher_dim": 8,
        },
    ),
    "cosine": Case(losses.CosineLoss, SIZES),
    "fitnet": Case(losses.FitNetLoss, SIZES),
    "sp": Case(losses.SPLoss, {"gram": "row_normalized"}),
    "cckd": Case(losses.CCKDLoss, {"gamma": 0.3, "orders": 3}),
    "rkd": Case(
        losses.RKDLoss, {"distance_weight": 2.0, "angle_weight": 3.0, "delta": 0.5}
    ),
    "darkrank": Case(losses.DarkRankLoss, {"alpha": 2.0, "beta": 2.0, "length": 4}),
    "triplet_distillation": Case(
        losses.TripletDistillationLoss, {"min_margin": 0.1, "max_margin": 0.6}
    ),
    "kd": with_centres(losses.KDLoss, temperature=2.0),
    "gkd": with_centres(
        losses.GKDLoss, temperature=2.0, mass=0.5, primary_weight=2.0, binary_weight=0.5
    ),
    "pkt": Case(losses.PKTLoss, {}),
    "icd_face": Case(
        # Of bins that a few pairs fill.
        lambda **kw: losses.ICDFaceLoss(**{"memory": 0, "bins": 9, **kw}),
        {"memory": 4, "student_dim": 3, "teacher_dim": 2, "bins": 5},
    ),
    "unikd": Case(
        lambda **kw: losses.UniKDLoss(**{"memory": 0, **kw}),
        {**SIZES, "memory": 4, "relation_weight": 0.5, "num_negatives": 3},
    ),
    "shrinkteanet": with_centres(
        losses.ShrinkTeaNetLoss, angular_weight=2.0, classifier_weight=0.5
    ),
    "margin_distillation": with_centres(
        losses.MarginDistillationLoss, min_margin=0.1, max_margin=0.4
    ),
    "proxyless_kd": with_centres(losses.ProxylessKDLoss, margin=0.3),
    "ada_distill": Case(
        lambda **kw: losses.AdaDistillLoss(
            **{"num_identities": IDENTITIES, "teacher_dim": STUDENT_DIM, **kw}
        ),
        {"margin": 0.3, "scale": 16.0, "student_dim": 3},
    ),
}
# Those with a NumPy form of the same name. Values of the others are in test_formulas.py
# and in files of their own.
IN_NUMPY = {"kd", "shrinkteanet", "margin_distillation", "proxyless_kd"}
ZERO_FOR_ONE_ROW = {"ekd", "rkd", "darkrank", "triplet_distillation", "icd_face"}
OF_ANY_DIMS = {*ZERO_FOR_ONE_ROW, "sp", "cckd", "pkt"}
WITHOUT_LABELS = set("cosine fitnet sp cckd rkd darkrank kd gkd pkt".split())


def named(*names):
    return pytest.mark.parametrize("name", names)


def every_loss(test):
    """Runs a test on all losses; EKD's functions take less op by op than a trace."""
    return pytest.mark.usefixtures("op_by_op")(named(*CASES)(test))


def batch_of(rng, rows=ROWS, **dims):
    """Embeddings, and labels in no order, as the loops know none."""
    student, teacher, _ = two_models(rng, rows, rows, **dims)
    return student, teacher, np.int32([2, 0, 1, 0, 2, 1][:rows])


def degenerate_batches(rng):
    """Yields names and batches of the ordinary shape."""
    student, teacher, labels = batch_of(rng)
    ones = np.ones_like(student)
    signs = np.float32([1, -1, 1, -1, 1, -1])[:, None]
    repeated, same_teacher = student.copy(), teacher.copy()
    repeated[1:4], same_teacher[1:4] = student[0], teacher[0]
    yield "repeated images", repeated, same_teacher, labels
    yield "repeated for the student", repeated, teacher, labels
    yield "repeated for the teacher", student, same_teacher, labels
    yield "collapsed student", ones, teacher, labels
    yield "both collapsed", ones, -ones, labels
    yield "opposite rows", ones * signs, -ones * signs, labels
    yield "student equals teacher", student, student, labels
    yield "zero rows", 0 * student, 0 * teacher, labels
    yield "one identity", student, teacher, 0 * labels
    yield "long rows", 1e4 * student, 1e-4 * teacher, labels


def test_every_loss_has_a_case():
    # Of these two test_ekd.py and test_ekd_centres.py.
    assert losses.LOSSES.keys() - CASES.keys() == {"ekd_reference", "ekd_centres"}


# A graph runs what these two trace or run.
@pytest.mark.parametrize("run_as", ["eager", "xla"], indirect=True)
@named(*CASES)
def test_value_and_finite_gradient_in_every_mode(rng, run_as, name):
    loss = CASES[name].make()
    step = run_as(with_gradient(loss))
    fresh = [np.array(variable) for variable in loss.variables]
    batch = batch_of(rng)
    value, gradient = step(*batch)
    assert np.abs(gradient).max() > 0
    expected = sum(CASES[name].make()(*batch).values())
    if name in IN_NUMPY:
        expected = getattr(reference, name)(*batch, centres_of())
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)
    for kind, *batch in degenerate_batches(rng):
        for variable, start in zip(loss.variables, fresh):
            variable.assign(start)
        value, gradient = step(*batch)
        assert np.isfinite(value) and np.isfinite(gradient).all(), kind
        # A zero row is divided by 1e-6, and the cosine multiplied by 64.
        bound = 1e8 if kind == "zero rows" else 1e6
        assert np.abs(gradient).max() < bound, kind
        for variable in loss.variables:
            assert np.isfinite(np.array(variable)).all(), kind


@every_loss
def test_a_single_row_is_finite_or_has_no_loss(rng, name):
    value, gradient = with_gradient(CASES[name].make())(*batch_of(rng, rows=1))
    assert np.isfinite(value) and np.isfinite(gradient).all()
    if name in ZERO_FOR_ONE_ROW:
        assert float(value) == 0.0 and not np.any(gradient)


@every_loss
@pytest.mark.parametrize("side", [0, 1], ids=["student", "teacher"])
def test_a_row_that_is_not_finite_shows_in_the_loss(rng, name, side):
    batch = [np.array(part) for part in batch_of(rng)]
    batch[side][2, 1] = np.nan
    value, _ = with_gradient(CASES[name].make())(*batch)
    assert np.isnan(value)


@every_loss
def test_gradient_matches_central_differences(rng, name):
    # Along directions, in float32: h balances truncation and rounding.
    loss = CASES[name].make()
    student, teacher, labels = batch_of(rng)
    loss(student, teacher, labels)
    step = with_gradient(loss, training=False)
    _, gradient = step(student, teacher, labels)
    scale = np.linalg.norm(gradient)
    for _ in range(4):
        direction = np.float32(rng.normal(size=student.shape))
        direction /= np.linalg.norm(direction)
        h = 2e-3
        up, down = (step(student + s * direction, teacher, labels)[0] for s in (h, -h))
        slope = float(up - down) / (2 * h)
        expected = np.sum(gradient * direction)
        assert abs(slope - expected) < 1e-2 * scale, (slope, expected)


@every_loss
def test_terms_carry_the_name_of_the_loss(rng, name):
    batch = batch_of(rng)
    terms = CASES[name].make()(*batch)
    assert all(term.split("/")[0] == name for term in terms)
    terms, monitor = CASES[name].make(name="mine")(*batch, with_monitor=True)
    assert all(term.split("/")[0] == "mine" for term in terms)
    for value in (*terms.values(), *monitor.values()):
        assert value.dtype == tf.float32 and value.shape == ()


@every_loss
def test_config_keeps_every_argument(name):
    case = CASES[name]
    loss = case.make(**case.changed, name="mine")
    loss_class = type(loss)
    registered = keras.saving.get_registered_name(loss_class)
    assert registered == f"ekd_tf>{loss_class.__name__}"
    restored = loss_class.from_config(loss.get_config())
    assert restored.name == "mine"
    parameters = inspect.signature(loss_class).parameters
    # Given by `make` instead, or no part of a config.
    others = {"kwargs", "name", "centres", "head", "num_identities"}
    others |= {"teacher_dim", "miner"}
    assert set(parameters) - others <= set(case.changed)
    for argument, value in case.changed.items():
        assert value != parameters[argument].default
        assert getattr(restored, argument) == value
    shapes = [[tuple(v.shape) for v in layer.variables] for layer in (loss, restored)]
    assert shapes[0] == shapes[1]


@every_loss
def test_state_is_saved_and_loaded_and_not_moved_by_evaluation(rng, tmp_path, name):
    # With all it may own: a projection, a memory.
    changed = CASES[name].changed
    sizes = {n: changed[n] for n in ("student_dim", "teacher_dim") if n in changed}
    batch, loss = batch_of(rng, **sizes), CASES[name].make(**changed)
    loss(*batch)
    before = [np.array(variable) for variable in loss.variables]
    expected = loss(*batch, training=False)
    for variable, value in zip(loss.variables, before):
        np.testing.assert_array_equal(np.array(variable), value)
    other = type(loss).from_config(loss.get_config())
    path = tf.train.Checkpoint(loss=loss).write(str(tmp_path / "loss"))
    tf.train.Checkpoint(loss=other).read(path).assert_consumed()
    for term, value in other(*batch, training=False).items():
        np.testing.assert_array_equal(value, expected[term])


@every_loss
def test_takes_other_sizes_as_they_are_or_says_how_to_project(rng, name):
    batch = batch_of(rng, student_dim=TEACHER_DIM)
    loss = CASES[name].make()
    if name in OF_ANY_DIMS:
        assert np.isfinite(sum(loss(*batch).values())) and not loss.trainable_variables
        return
    refused("student_dim=7, teacher_dim=5 to own a projection", loss, *batch)


@named(*(name for name in CASES if name not in OF_ANY_DIMS))
def test_owns_a_trained_projection_between_sizes(rng, mixed_policy, name):
    mixed_policy("mixed_bfloat16")
    case = CASES[name]
    sizes = {"student_dim": TEACHER_DIM}
    if name in ("cosine", "fitnet", "unikd"):
        sizes["teacher_dim"] = STUDENT_DIM
    if name == "unikd":
        # Pairs are compared in each model's own space.
        case = Case(functools.partial(case.make, relation_weight=0.0), {})
    loss = case.make(**sizes)
    student, teacher, labels = batch_of(rng, student_dim=TEACHER_DIM)
    (kernel,) = loss.trainable_variables
    assert all(tf.as_dtype(v.dtype) == tf.float32 for v in loss.variables)
    assert tuple(kernel.shape) == (TEACHER_DIM, STUDENT_DIM)
    with tf.GradientTape() as tape:
        total = sum(loss(student, teacher, labels).values())
    assert np.abs(tape.gradient(total, tf_variable(kernel))).max() > 0
    # Without the projection, on embeddings projected beforehand.
    projected = np.float32(student @ np.array(kernel))
    expected = sum(case.make()(projected, teacher, labels).values())
    np.testing.assert_allclose(total, expected, rtol=1e-5)


@every_loss
def test_labels_are_needed_or_make_no_difference(rng, name):
    student, teacher, labels = batch_of(rng)
    if name not in WITHOUT_LABELS:
        refused("Loss needs `labels`", CASES[name].make(), student, teacher)
        return
    with_labels = CASES[name].make()(student, teacher, labels)
    for term, value in CASES[name].make()(student, teacher).items():
        np.testing.assert_array_equal(value, with_labels[term])
