import functools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from refusals import refused
from toys import scatter
from toys import value_and_gradient
from toys import with_centres

from ekd_tf.heads import AdaFace
from ekd_tf.heads import ArcFace
from ekd_tf.heads import CombinedMargin
from ekd_tf.heads import CosFace
from ekd_tf.heads import CurricularFace
from ekd_tf.heads import margin_softmax_loss
from ekd_tf.heads import num_sampled
from ekd_tf.heads import replace_targets
from ekd_tf.heads import sample_classes
from ekd_tf.ops.collective import gather_rows
from ekd_tf.ops.collective import num_replicas

HEADS = [ArcFace, CosFace, CombinedMargin, CurricularFace, AdaFace]


@pytest.fixture(params=HEADS)
def head_class(request):
    return request.param


def test_replaces_the_labelled_entries_and_their_gradients_only(run_as):
    # d/dc of 10 c is 10 at the labelled entries; the others pass through.
    labels = tf.constant([2, 0])
    step = value_and_gradient(lambda c: replace_targets(c, labels, lambda t: 10.0 * t))
    cosine = tf.constant([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    result, gradient = run_as(step)(cosine)
    np.testing.assert_allclose(result, [[0.1, 0.2, 3.0], [4.0, 0.5, 0.6]], rtol=1e-6)
    np.testing.assert_array_equal(gradient, [[1, 1, 10], [10, 1, 1]])


def test_takes_variables_arrays_and_every_float():
    head = AdaFace(num_identities=3)
    # Numbers that float16 holds, so that all kinds have the same.
    batch = np.float32([[0.5, 2, 1], [1, -2, 4]]), np.int64([0, 2]), np.float32([1, 0])
    head.build((None, 3))
    expected = head.row_losses(*batch, training=False)
    for kind, dtype in (
        (tf.constant, np.float16),
        (np.array, np.float64),
        (tf.Variable, np.float32),
    ):
        given = kind(dtype(batch[0])), kind(batch[1]), kind(dtype(batch[2]))
        step = functools.partial(head.row_losses, *given, training=False)
        for result in (step(), tf.function(step)()):
            np.testing.assert_allclose(result, expected, rtol=1e-5)
    # 300^2 overflows float16, and so would a norm computed in it.
    half = head(np.float16([[300.0, 400.0, 0.0]]), np.int32([1]), training=False)
    full = head(np.float32([[300.0, 400.0, 0.0]]), np.int32([1]), training=False)
    np.testing.assert_allclose(half, full, rtol=1e-6)


def test_centers_are_trainable_and_start_near_zero():
    head = ArcFace(num_identities=400)
    head(np.ones((2, 32), np.float32), np.int32([0, 1]))
    assert tuple(head.centers.shape) == (400, 32)
    assert len(head.trainable_weights) == 1
    # 12,800 draws: the sample deviation is within 3 % of 0.01 by five sigma.
    values = tf.convert_to_tensor(head.centers).numpy()
    assert abs(values.std() - 0.01) < 3e-4
    assert abs(values.mean()) < 5e-4


def built(head, dim, rng):
    return with_centres(head, rng.normal(size=(head.num_identities, dim)))


def test_statistics_stay_with_nothing_to_learn_from():
    rows, labels = np.float32([[30, 40, 0], [0, 9, 12]]), np.int32([0, 1])
    for kind, statistics, in_margin in (
        (CurricularFace, ["stage"], [0, 0]),
        # One row has no deviation.
        (AdaFace, ["length_mean", "length_deviation"], [0, 1]),
    ):
        head = with_centres(kind(3), np.eye(3))
        fresh = [float(getattr(head, name)) for name in statistics]
        head(rows, labels)
        before = [float(getattr(head, name)) for name in statistics]
        assert all(a != b for a, b in zip(fresh, before))
        head(rows, labels, np.float32(in_margin))
        head(rows * np.float32(np.nan), labels)
        head(rows, labels, training=False)
        assert [float(getattr(head, name)) for name in statistics] == before


def test_straight_through_gradient_is_the_scale(head_class, rng):
    # On one row the target logit's derivative by the embedding is scale times that of
    # the cosine, as if there were no margin; its value keeps the margin.
    embeddings = tf.constant(rng.normal(size=(1, 4)), tf.float32)
    results, labels = {}, tf.constant([2])
    for name, head in (
        ("true", head_class(3, scale=5.0)),
        ("straight_through", head_class(3, scale=5.0, gradient="straight_through")),
        ("no margin", CosFace(3, scale=5.0, margin=0.0)),
    ):
        head = built(head, 4, np.random.default_rng(1))
        step = value_and_gradient(lambda e, h=head: h(e, labels, training=False)[0, 2])
        results[name] = step(embeddings)
    value, gradient = results["straight_through"]
    np.testing.assert_allclose(value, results["true"][0], rtol=1e-5)
    np.testing.assert_allclose(gradient, results["no margin"][1], rtol=1e-4, atol=1e-5)
    assert abs(float(value - results["no margin"][0])) > 0.5


@pytest.mark.parametrize(
    "head_class, run_as",
    [(ArcFace, "eager"), (CurricularFace, "graph"), (AdaFace, "xla")],
    indirect=True,
)
def test_sampled_losses_are_those_of_a_head_over_the_sample(head_class, rng, run_as):
    head = built(head_class(num_identities=40, sample_rate=0.3, seed=8), 4, rng)
    embeddings = np.float32(rng.normal(size=(5, 4)))
    labels = np.int32([0, 39, 7, 7, 21])
    step = run_as(lambda e, y: head.row_losses(e, y))
    losses = step(tf.constant(embeddings), tf.constant(labels))
    assert int(head.num_draws) == 1
    draw = run_as(lambda y, seed: sample_classes(y, 40, 12, seed))
    classes = draw(tf.constant(labels), tf.constant([8, 0]))
    small = with_centres(head_class(12), np.array(head.centers)[classes])
    expected = small.row_losses(embeddings, np.searchsorted(classes, labels))
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6)
    again = step(tf.constant(embeddings), tf.constant(labels))
    assert np.abs(again - losses).max() > 1e-3


def test_no_tensor_of_the_batch_by_all_classes_is_made():
    head = ArcFace(num_identities=5000, sample_rate=0.01)
    head.build((None, 4))
    specs = tf.TensorSpec((6, 4), tf.float32), tf.TensorSpec((6,), tf.int32)
    traced = tf.function(head.row_losses).get_concrete_function(*specs)
    shapes = [t.shape for op in traced.graph.get_operations() for t in op.outputs]
    assert tf.TensorShape([6, 50]) in shapes
    assert not [s for s in shapes if s.rank == 2 and 5000 in s and 4 not in s]


def test_evaluation_is_over_all_classes(rng):
    head = built(ArcFace(num_identities=40, sample_rate=0.3), 4, rng)
    embeddings, labels = np.float32(rng.normal(size=(2, 4))), np.int32([0, 9])
    losses = head.row_losses(embeddings, labels, training=False)
    logits = head(embeddings, labels, training=False)
    np.testing.assert_array_equal(losses, margin_softmax_loss(logits, labels))
    assert logits.shape == (2, 40) and int(head.num_draws) == 0
    # A sample below the batch's identities has room for them all the same.
    small = built(ArcFace(num_identities=40, sample_rate=0.01), 4, rng)
    assert np.isfinite(small.row_losses(embeddings, labels)).all()


# Those with statistics.
@pytest.mark.parametrize("head_class", [CurricularFace, AdaFace], indirect=True)
def test_replicas_compute_what_one_device_does(head_class, rng, two_replicas):
    arguments = {"num_identities": 30, "sample_rate": 0.5}
    alone = built(head_class(**arguments), 4, rng)
    with two_replicas.scope():
        shared = with_centres(head_class(**arguments), np.array(alone.centers))

    def replica(embeddings, labels, in_margin):
        losses = shared.row_losses(embeddings, labels, in_margin)
        assert num_replicas() == 2
        return gather_rows(losses)

    step = tf.function(lambda *batch: two_replicas.run(replica, args=batch))
    for _ in range(2):
        rows, labels = rng.normal(size=(6, 4)), rng.integers(0, 30, 6)
        batch = np.float32(rows), np.int32(labels), np.float32([1, 1, 0, 1, 0, 1])
        expected = alone.row_losses(*batch)
        parts = step(*(scatter(two_replicas, rows) for rows in batch))
        for losses in two_replicas.experimental_local_results(parts):
            np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-5)
        for one, many in zip(alone.variables, shared.variables):
            np.testing.assert_allclose(np.array(many), np.array(one), rtol=1e-5)


ARGUMENTS = {
    ArcFace: {"margin": 0.3},
    CosFace: {"margin": 0.3},
    CurricularFace: {"margin": 0.3, "momentum": 0.2},
    AdaFace: {"margin": 0.3, "concentration": 0.5, "momentum": 0.2},
    CombinedMargin: {"margin1": 1.2, "margin2": 0.1, "margin3": 0.3},
}


def test_config_keeps_every_argument(head_class):
    arguments = {"num_identities": 7, "scale": 30.0, "gradient": "straight_through"}
    arguments |= {"sample_rate": 0.25, "seed": 3, "name": "mine"}
    arguments |= ARGUMENTS[head_class]
    config = head_class(**arguments).get_config()
    restored = head_class.from_config(config)
    assert {name: getattr(restored, name) for name in arguments} == arguments
    registered = keras.saving.get_registered_name(head_class)
    assert registered == f"ekd_tf>{head_class.__name__}"


ACUTE = r"must be in \[0, pi/2\) radians"


def test_rejects_arguments_outside_their_range():
    for kind, argument, value, rule in (
        (ArcFace, "num_identities", 1, r"`num_identities` must be in \[2, inf\)"),
        (ArcFace, "scale", 0.0, r"`scale` must be in \(0, inf\)\. Received: "),
        (ArcFace, "gradient", "no_grad", "one of 'true', 'straight_through'"),
        (ArcFace, "sample_rate", 1.5, r"`sample_rate` must be in \(0, 1\]"),
        (ArcFace, "margin", 28.6, ACUTE + ". Received: margin=28.6"),
        (CosFace, "margin", 35.0, r"`margin` must be in \[0, 1\)\. Received: "),
        (CurricularFace, "momentum", 0.0, r"`momentum` must be in \(0, 1\]"),
        (AdaFace, "concentration", 0.0, r"`concentration` must be in \(0, inf\)"),
        (AdaFace, "momentum", 1.5, r"`momentum` must be in \(0, 1\]"),
        (CombinedMargin, "margin1", 0.0, r"`margin1` must be in \(0, inf\)"),
        (CombinedMargin, "margin2", 28.6, ACUTE),
        (CombinedMargin, "margin3", 1.0, r"`margin3` must be in \[0, 1\)"),
    ):
        refused(rule, kind, **{"num_identities": 3, argument: value})


def test_rejects_wrong_shapes_and_samples_of_an_unknown_batch_size():
    head, rows = ArcFace(num_identities=3), np.eye(2, 4, dtype=np.float32)
    head.build((None, 4))
    refused("embeddings` must have 2 dimensions", head, rows[:, None], np.int32([0, 1]))
    refused("`labels` must have 1 dimensions", head, rows, np.eye(2, 3))
    for in_margin in (np.ones((2, 1)), np.ones(3)):
        words = "`in_margin` must have 1 dim|same batch.*in_margin=3"
        refused(words, head.row_losses, rows, np.int32([0, 1]), in_margin)
    refused("same batch.*embeddings=2, labels=3", head, rows, np.int32([0, 1, 2]))
    step = tf.function(ArcFace(num_identities=40, sample_rate=0.3).row_losses)
    specs = tf.TensorSpec((None, 4), tf.float32), tf.TensorSpec((None,), tf.int32)
    refused("size known while tracing", step.get_concrete_function, *specs)


def test_losses_computed_by_hand_to_the_ends_of_the_scale(run_as):
    # Odds 3 : 1 for class 0: losses log(4/3) and log 4.
    logits = [[math.log(3.0), 0.0]] * 2 + [[64.0, -64.0]] * 2
    losses = run_as(margin_softmax_loss)(tf.constant(logits), tf.constant([0, 1, 0, 1]))
    expected = [math.log(4 / 3), math.log(4), 0, 128]
    np.testing.assert_allclose(losses, expected, rtol=1e-6, atol=1e-6)


LABELS = tf.constant([7, 2, 7, 19])


def sample(count):
    return sample_classes(LABELS, 20, count, tf.constant([0, 0]))


def test_number_of_classes_computed_by_hand():
    assert num_sampled(1000, 0.1, 32) == 100
    assert num_sampled(1000, 0.0001, 32) == 32
    assert num_sampled(1001, 0.1, 32) == 101
    assert num_sampled(20, 0.5, 32) == 20


def test_every_label_is_in_the_sample(run_as):
    classes = run_as(lambda: sample(6))().numpy()
    assert {2, 7, 19} <= set(classes) <= set(range(20))
    assert len(classes) == 6 and np.all(np.diff(classes) > 0)
    np.testing.assert_array_equal(sample(3), [2, 7, 19])
    np.testing.assert_array_equal(sample(20), np.arange(20))


def test_other_classes_are_drawn_alike():
    # 17 others, 5 of them per draw: each about 400 * 5 / 17 = 118 times; the deviation
    # of such a count is 9.1.
    draw = tf.function(lambda i: sample_classes(LABELS, 20, 8, tf.stack([1, i])))
    counts = np.zeros(20)
    for i in range(400):
        counts[draw(tf.constant(i))] += 1
    others = np.delete(counts, [2, 7, 19])
    np.testing.assert_array_equal(counts[[2, 7, 19]], 400)
    assert np.abs(others - 400 * 5 / 17).max() < 5 * 9.1
