"""Placing the margin, and the state and errors every head shares."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.heads import AdaFace
from ekd_tf.heads import ArcFace
from ekd_tf.heads import CombinedMargin
from ekd_tf.heads import CosFace
from ekd_tf.heads import CurricularFace
from ekd_tf.heads import margin_softmax_loss
from ekd_tf.heads import sample_classes
from ekd_tf.heads.base import replace_targets
from ekd_tf.keras_compat import tf_variable
from ekd_tf.ops.collective import gather_rows
from ekd_tf.ops.collective import num_replicas


@pytest.fixture(params=[ArcFace, CosFace, CombinedMargin, CurricularFace, AdaFace])
def head_class(request):
    return request.param


def test_replaces_the_labelled_entries_only(run_as):
    cosine = tf.constant([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    labels = tf.constant([2, 0])
    result = run_as(lambda c: replace_targets(c, labels, lambda t: 10.0 * t))(cosine)
    expected = [[0.1, 0.2, 3.0], [4.0, 0.5, 0.6]]
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_gradient_follows_the_replacement(run_as):
    # d/dc of 10 c is 10 at the labelled entries; the others pass through.
    def gradient(cosine):
        with tf.GradientTape() as tape:
            tape.watch(cosine)
            result = replace_targets(cosine, tf.constant([1, 1]), lambda t: 10.0 * t)
        return tape.gradient(result, cosine)

    found = run_as(gradient)(tf.zeros((2, 3)))
    np.testing.assert_array_equal(found, [[1, 10, 1], [1, 10, 1]])


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_takes_labels_of_any_integer_type(head_class, dtype):
    head = head_class(num_identities=3)
    embeddings = np.eye(2, 4, dtype=np.float32)
    plain = head(embeddings, np.int32([0, 2]), training=False)
    other = head(embeddings, dtype([0, 2]), training=False)
    np.testing.assert_array_equal(other, plain)


@pytest.mark.parametrize("traced", [False, True], ids=["eager", "traced"])
def test_takes_variables_arrays_and_every_float(head_class, traced):
    head = head_class(num_identities=3)
    # Numbers that float16 holds, so that all kinds have the same.
    batch = np.float32([[0.5, 2, 1], [1, -2, 4]]), np.int64([0, 2]), np.float32([1, 0])
    expected = head(*batch, training=False), head.row_losses(*batch, training=False)
    for kind, dtype in (
        (tf.constant, np.float16),
        (np.array, np.float64),
        (tf.Variable, np.float32),
    ):
        given = kind(dtype(batch[0])), kind(batch[1]), kind(dtype(batch[2]))
        for call, value in zip((head, head.row_losses), expected):
            step = functools.partial(call, *given, training=False)
            result = tf.function(step)() if traced else step()
            np.testing.assert_allclose(result, value, rtol=1e-5)


def test_centers_are_trainable_float32_and_start_near_zero(head_class):
    head = head_class(num_identities=400)
    head(np.ones((2, 32), np.float32), np.int32([0, 1]))
    assert tuple(head.centers.shape) == (400, 32)
    assert tf.as_dtype(head.centers.dtype) == tf.float32
    assert len(head.trainable_weights) == 1
    # 12,800 draws: the sample deviation is within 3 % of 0.01 by five sigma.
    values = tf.convert_to_tensor(head.centers).numpy()
    assert abs(values.std() - 0.01) < 3e-4
    assert abs(values.mean()) < 5e-4


def test_centers_are_saved_and_loaded(head_class, tmp_path, rng):
    embeddings = rng.normal(size=(3, 4)).astype(np.float32)
    labels = np.int32([0, 1, 4])
    head, other = (head_class(num_identities=5) for _ in range(2))
    head(embeddings, labels)
    expected = head(embeddings, labels, training=False)
    other(embeddings, labels)
    path = tf.train.Checkpoint(head=head).write(str(tmp_path / "head"))
    tf.train.Checkpoint(head=other).read(path).assert_consumed()
    restored = other(embeddings, labels, training=False)
    np.testing.assert_array_equal(restored, expected)


def test_every_identity_wins_on_its_own_centre(head_class):
    head = head_class(num_identities=6, scale=1.0)
    head.build((None, 6))
    head.centers.assign(np.eye(6, dtype=np.float32))
    logits = head(np.eye(6, dtype=np.float32), np.arange(6, dtype=np.int32)).numpy()
    np.testing.assert_array_equal(logits.argmax(axis=1), np.arange(6))
    assert np.all(np.diag(logits) < 1.0)


def test_float16_embeddings_are_taken_in_float32(head_class):
    # 300^2 overflows float16, and so would a norm computed in it.
    head = head_class(num_identities=2)
    half = head(np.float16([[300.0, 400.0]]), np.int32([1]), training=False)
    full = head(np.float32([[300.0, 400.0]]), np.int32([1]), training=False)
    np.testing.assert_allclose(half, full, rtol=1e-6)


@pytest.mark.parametrize("count", [1, 0, -3])
def test_rejects_fewer_than_two_identities(head_class, count):
    with pytest.raises(ValueError, match=r"`num_identities` must be in \[2, inf\)"):
        head_class(num_identities=count)


@pytest.mark.parametrize("scale", [0.0, -64.0])
def test_rejects_scale_that_is_not_positive(head_class, scale):
    with pytest.raises(ValueError, match=r"`scale` must be in \(0, inf\)\. Received: "):
        head_class(num_identities=3, scale=scale)


def test_rejects_embeddings_that_are_no_matrix(head_class):
    head = head_class(num_identities=3)
    head.build((None, 4))
    with pytest.raises(ValueError, match="`embeddings` must have 2 dimensions"):
        head(np.zeros((2, 1, 4), np.float32), np.int32([0, 1]))


def test_rejects_one_hot_labels(head_class):
    with pytest.raises(ValueError, match="`labels` must have 1 dimensions"):
        head_class(num_identities=3)(np.eye(2, 4, dtype=np.float32), np.eye(2, 3))


def test_rejects_labels_of_another_batch(head_class):
    with pytest.raises(ValueError, match="same batch.*embeddings=2, labels=3"):
        head_class(num_identities=3)(
            np.eye(2, 4, dtype=np.float32), np.int32([0, 1, 2])
        )


def built(head, dim, rng):
    head.build((None, dim))
    head.centers.assign(rng.normal(size=head.centers.shape))
    return head


def test_config_keeps_what_all_heads_have(head_class):
    head = head_class(
        num_identities=7,
        scale=30.0,
        gradient="straight_through",
        sample_rate=0.25,
        seed=3,
        name="mine",
    )
    restored = head_class.from_config(head.get_config())
    received = (restored.num_identities, restored.scale, restored.name)
    assert received == (7, 30.0, "mine")
    received = (restored.gradient, restored.sample_rate, restored.seed)
    assert received == ("straight_through", 0.25, 3)


# --- the gradient through the margin


def test_straight_through_gradient_is_the_scale(head_class, rng):
    # On one row the target logit's derivative by the embedding is scale times that of
    # the cosine, as if there were no margin; its value keeps the margin.
    embeddings = tf.constant(rng.normal(size=(1, 4)), tf.float32)
    labels = tf.constant([2])
    results = {}
    for name, head in (
        ("true", head_class(3, scale=5.0)),
        ("straight_through", head_class(3, scale=5.0, gradient="straight_through")),
        ("no margin", CosFace(3, scale=5.0, margin=0.0)),
    ):
        head = built(head, 4, np.random.default_rng(1))

        def step(embeddings, head=head):
            with tf.GradientTape() as tape:
                tape.watch(embeddings)
                target = head(embeddings, labels, training=False)[0, 2]
            return target, tape.gradient(target, embeddings)

        results[name] = step(embeddings)
    value, gradient = results["straight_through"]
    np.testing.assert_allclose(value, results["true"][0], rtol=1e-5)
    np.testing.assert_allclose(gradient, results["no margin"][1], rtol=1e-4, atol=1e-5)
    assert abs(float(value - results["no margin"][0])) > 0.5


def test_rejects_another_gradient(head_class):
    with pytest.raises(ValueError, match="one of 'true', 'straight_through'"):
        head_class(num_identities=3, gradient="no_grad")


# --- rows' losses, and sampled classes


def test_row_losses_are_the_cross_entropy_of_the_logits(head_class, rng):
    head = built(head_class(num_identities=6), 4, rng)
    embeddings = np.float32(rng.normal(size=(5, 4)))
    labels = np.int32([0, 5, 2, 2, 1])
    losses = head.row_losses(embeddings, labels, training=False)
    logits = head(embeddings, labels, training=False)
    np.testing.assert_array_equal(losses, margin_softmax_loss(logits, labels))


def test_sampled_losses_are_those_of_a_head_over_the_sample(head_class, rng):
    check_sampled(head_class, rng, lambda function: function)


def test_sampled_losses_in_every_mode(rng, run_as):
    check_sampled(ArcFace, rng, run_as)


def check_sampled(head_class, rng, run_as):
    head = built(head_class(num_identities=40, sample_rate=0.3, seed=8), 4, rng)
    embeddings = np.float32(rng.normal(size=(5, 4)))
    labels = np.int32([0, 39, 7, 7, 21])
    step = run_as(lambda e, y: head.row_losses(e, y))
    losses = step(tf.constant(embeddings), tf.constant(labels))
    assert int(head.num_draws) == 1
    draw = run_as(lambda y, seed: sample_classes(y, 40, 12, seed))
    classes, positions = draw(tf.constant(labels), tf.constant([8, 0]))
    small = head_class(num_identities=12)
    small.build((None, 4))
    small.centers.assign(np.array(head.centers)[classes])
    expected = small.row_losses(embeddings, positions)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6)
    again = step(tf.constant(embeddings), tf.constant(labels))
    assert np.abs(again - losses).max() > 1e-3


def test_centres_outside_the_sample_get_no_gradient(rng):
    head = built(ArcFace(num_identities=40, sample_rate=0.3), 4, rng)
    embeddings, labels = (
        tf.constant(rng.normal(size=(5, 4)), tf.float32),
        [0, 9, 7, 7, 2],
    )
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(head.row_losses(embeddings, labels))
    gradient = tape.gradient(total, tf_variable(head.centers))
    assert isinstance(gradient, tf.IndexedSlices)
    classes, _ = sample_classes(tf.constant(labels), 40, 12, tf.constant([0, 0]))
    np.testing.assert_array_equal(np.sort(gradient.indices), classes)


def test_no_tensor_of_the_batch_by_all_classes_is_made():
    head = ArcFace(num_identities=5000, sample_rate=0.01)
    head.build((None, 4))
    graph = (
        tf.function(head.row_losses)
        .get_concrete_function(
            tf.TensorSpec((6, 4), tf.float32), tf.TensorSpec((6,), tf.int32)
        )
        .graph
    )
    shapes = [t.shape for op in graph.get_operations() for t in op.outputs]
    assert tf.TensorShape([6, 50]) in shapes
    assert not [s for s in shapes if s.rank == 2 and 5000 in s and 4 not in s]


def test_small_sample_still_holds_every_identity_of_the_batch(rng):
    head = built(ArcFace(num_identities=40, sample_rate=0.01), 4, rng)
    embeddings = np.float32(rng.normal(size=(5, 4)))
    assert np.isfinite(head.row_losses(embeddings, np.int32([0, 9, 7, 3, 2]))).all()


def test_evaluation_is_over_all_classes(rng):
    head = built(ArcFace(num_identities=40, sample_rate=0.3), 4, rng)
    embeddings, labels = np.float32(rng.normal(size=(2, 4))), np.int32([0, 9])
    full = built(ArcFace(num_identities=40), 4, rng)
    full.centers.assign(np.array(head.centers))
    np.testing.assert_array_equal(
        head.row_losses(embeddings, labels, training=False),
        full.row_losses(embeddings, labels, training=False),
    )
    assert int(head.num_draws) == 0


@pytest.mark.parametrize("rate", [0.0, 1.5, -0.1])
def test_rejects_sample_rate_that_is_no_share(head_class, rate):
    with pytest.raises(ValueError, match=r"`sample_rate` must be in \(0, 1\]"):
        head_class(num_identities=3, sample_rate=rate)


def test_sampling_needs_to_know_the_batch_size():
    head = ArcFace(num_identities=40, sample_rate=0.3)
    head.build((None, 4))
    with pytest.raises(ValueError, match="needs a batch size known while tracing"):
        tf.function(head.row_losses).get_concrete_function(
            tf.TensorSpec((None, 4), tf.float32), tf.TensorSpec((None,), tf.int32)
        )


def test_replicas_compute_what_one_device_does(head_class, rng, two_replicas):
    arguments = {"num_identities": 30, "sample_rate": 0.5}
    alone = built(head_class(**arguments), 4, rng)
    with two_replicas.scope():
        shared = head_class(**arguments)
        shared.build((None, 4))
        shared.centers.assign(np.array(alone.centers))

    def replica(embeddings, labels, in_margin):
        losses = shared.row_losses(embeddings, labels, in_margin)
        assert num_replicas() == 2
        return gather_rows(losses)

    def scatter(array):
        parts = np.split(array, 2)
        return two_replicas.experimental_distribute_values_from_function(
            lambda context: tf.constant(parts[context.replica_id_in_sync_group])
        )

    step = tf.function(lambda *batch: two_replicas.run(replica, args=batch))
    for _ in range(2):
        batch = (
            np.float32(rng.normal(size=(6, 4))),
            np.int32(rng.integers(0, 30, 6)),
            np.float32([1, 1, 0, 1, 0, 1]),
        )
        expected = alone.row_losses(*batch)
        for losses in two_replicas.experimental_local_results(
            step(*map(scatter, batch))
        ):
            np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-5)
        for one, many in zip(alone.variables, shared.variables):
            np.testing.assert_allclose(np.array(many), np.array(one), rtol=1e-5)
