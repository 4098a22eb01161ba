"""Tests for `ekd_tf.training.update`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.training.optimizers import make_optimizer
from ekd_tf.training.schedules import StepSchedule
from ekd_tf.training.update import GradientUpdate

NAN = float("nan")
INF = float("inf")


def strategy_of(replicas):
    if replicas == 0:
        return tf.distribute.get_strategy()
    # Collectives of a second strategy in one process clash with the first one's.
    return tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(replicas)],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


class Run:
    """A weight (decaying) and a bias, updated with given gradients.

    `replicas=0` is no strategy at all.
    """

    def __init__(
        self,
        replicas=0,
        optimizer="sgd",
        schedule=0.1,
        momentum=0.9,
        gradient_dtype=tf.float32,
        **arguments,
    ):
        self.strategy = strategy_of(replicas)
        self.replicas = max(replicas, 1)
        self.gradient_dtype = gradient_dtype
        with self.strategy.scope():
            self.weight = tf.Variable([1.0, 2.0])
            self.bias = tf.Variable([1.0])
            self.optimizer = make_optimizer(optimizer, schedule, momentum=momentum)
            self.update = GradientUpdate(
                self.optimizer,
                [self.weight, self.bias],
                decay_variables=[self.weight],
                **arguments,
            )
        self._step = tf.function(self._strategy_step)

    def _strategy_step(self, gradients):
        """Replica i is given `gradients[i]`, scaled as the loss would be."""

        def replica_step(index, gradients):
            mine = self.update.scale_loss(tf.gather(gradients, index))
            mine = tf.cast(mine, self.gradient_dtype)
            return self.update.apply([mine[:2], mine[2:]])

        if self.replicas == 1:
            return self.strategy.run(replica_step, args=(0, gradients))
        index = self.strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(context.replica_id_in_sync_group)
        )
        return self.strategy.run(replica_step, args=(index, gradients))

    def step(self, *gradients):
        """Makes a step and returns its scalars, checked to agree everywhere."""
        assert len(gradients) == self.replicas
        scalars = self._step(tf.constant(gradients, tf.float32))
        result = {}
        for name, value in scalars.items():
            copies = self.strategy.experimental_local_results(value)
            assert all(copy.dtype == tf.float32 for copy in copies)
            assert all(copy.shape == () for copy in copies)
            np.testing.assert_array_equal(copies, copies[0])
            result[name] = float(copies[0])
        return result

    def copies(self, variable):
        return [
            copy.numpy() for copy in self.strategy.experimental_local_results(variable)
        ]

    def snapshot(self):
        """Every number of weight, bias and optimizer, on every replica."""
        held = [self.weight, self.bias]
        held += [getattr(v, "value", v) for v in self.optimizer.variables]
        held = [v() if callable(v) else v for v in held]
        return [copy for variable in held for copy in self.copies(variable)]

    @property
    def state(self):
        values = {}
        for name, variable in self.update.state.items():
            copies = self.copies(variable)
            np.testing.assert_array_equal(copies, copies[0])
            values[name] = copies[0]
        return values

    @property
    def iterations(self):
        return int(self.optimizer.iterations.numpy())


@pytest.mark.parametrize("replicas", [0, 1, 2])
def test_two_steps_of_momentum_with_coupled_decay_by_hand(replicas):
    # Decay 0.5, momentum 0.9, rate 0.1. The weight's gradients are
    # [1, -1] + 0.5 * [1, 2] = [1.5, 0], so m = [-0.15, 0] and w = [0.85, 2]; then
    # [1, -1] + 0.5 * [0.85, 2] = [1.425, 0], so m = [-0.135 - 0.1425, 0] = [-0.2775, 0]
    # and w = [0.5725, 2]. The bias does not decay: m = -0.2, then -0.38: 0.8, 0.42.
    run = Run(replicas, weight_decay=0.5)
    part = np.array([1.0, -1.0, 2.0]) / run.replicas
    run.step(*[part] * run.replicas)
    for copy in run.copies(run.weight):
        np.testing.assert_allclose(copy, [0.85, 2.0], rtol=1e-6)
    run.step(*[part] * run.replicas)
    for copy in run.copies(run.weight):
        np.testing.assert_allclose(copy, [0.5725, 2.0], rtol=1e-6)
    for copy in run.copies(run.bias):
        np.testing.assert_allclose(copy, [0.42], rtol=1e-6)
    assert run.iterations == 2


@pytest.mark.parametrize("replicas, loss_scaling", [(0, "none"), (2, "dynamic")])
def test_clips_by_the_global_norm_before_decay_by_hand(replicas, loss_scaling):
    # Gradients [4, 12] and [3], norm sqrt(16 + 144 + 9) = 13; clipped to 6.5 they are
    # halved. Decay 1 then adds the weights [1, 2] to the first, and not to the bias:
    # 1 - 0.1 * (2 + 1), 2 - 0.1 * (6 + 2), 1 - 0.1 * 1.5.
    run = Run(
        replicas,
        momentum=0.0,
        weight_decay=1.0,
        clip_norm=6.5,
        loss_scaling=loss_scaling,
    )
    # Unequal parts: clipping each replica's would give another sum.
    parts = [[4.0, 12.0, 3.0]] if replicas == 0 else [[3.0, 13.0, 3.0], [1, -1, 0]]
    scalars = run.step(*parts)
    np.testing.assert_allclose(scalars["gradient_norm"], 13.0, rtol=1e-6)
    np.testing.assert_allclose(run.copies(run.weight)[-1], [0.7, 1.2], rtol=1e-6)
    np.testing.assert_allclose(run.copies(run.bias)[-1], [0.85], rtol=1e-6)


def test_a_norm_below_the_limit_is_not_clipped():
    run = Run(momentum=0.0, weight_decay=0.0, clip_norm=6.0)
    assert run.step([0.0, 0.0, 0.0])["gradient_norm"] == 0.0
    scalars = run.step([3.0, 4.0, 0.0])
    np.testing.assert_allclose(scalars["gradient_norm"], 5.0, rtol=1e-6)
    np.testing.assert_allclose(run.weight.numpy(), [0.7, 1.6], rtol=1e-6)


@pytest.mark.parametrize("replicas, optimizer", [(1, "sgd"), (2, "adam"), (4, "sgd")])
def test_replicas_take_the_step_of_one_on_the_sum(rng, optimizer, replicas):
    # The schedule drops inside the run: every replica must see the same rate.
    arguments = {
        "optimizer": optimizer,
        "schedule": StepSchedule(base=0.1, boundaries=[2]),
        "weight_decay": 0.01,
        "clip_norm": 2.0,
        "loss_scaling": "dynamic",
    }
    one, several = Run(0, **arguments), Run(replicas, **arguments)
    for _ in range(4):
        parts = rng.normal(size=(replicas, 3))
        expected = one.step(parts.sum(axis=0))
        scalars = several.step(*parts)
        for name, value in expected.items():
            np.testing.assert_allclose(scalars[name], value, rtol=1e-5)
    for variable in ("weight", "bias"):
        value = getattr(one, variable).numpy()
        for copy in several.copies(getattr(several, variable)):
            np.testing.assert_allclose(copy, value, rtol=1e-5)
    assert one.iterations == several.iterations == 4


@pytest.mark.parametrize(
    "replicas, loss_scaling, bad",
    [(0, "none", NAN), (2, "none", -INF), (2, "dynamic", NAN)],
)
def test_a_bad_gradient_on_one_replica_skips_the_step_on_all(
    replicas, loss_scaling, bad
):
    run = Run(
        replicas,
        optimizer="adam",
        clip_norm=1.0,
        loss_scaling=loss_scaling,
        initial_scale=64.0,
    )
    good = [[1.0, 2.0, 3.0]] * run.replicas
    run.step(*good)
    before = run.snapshot()
    scalars = run.step(*good[:-1], [1.0, bad, 3.0])
    for held, kept in zip(run.snapshot(), before):
        np.testing.assert_array_equal(held, kept)
    assert run.iterations == 1
    assert scalars["skipped_steps"] == 1.0
    assert np.isnan(scalars["gradient_norm"])
    scale = 64.0 if loss_scaling == "dynamic" else 1.0
    assert scalars["loss_scale"] == scale
    halved = 32.0 if loss_scaling == "dynamic" else 1.0
    assert run.state == {"loss_scale": halved, "good_steps": 0, "skipped_steps": 1}
    if replicas:
        # Infinities that cancel in no sum.
        run.step([INF, 1.0, 1.0], [-INF, 1.0, 1.0])
        assert run.state["skipped_steps"] == 2
    # Training goes on from where it was.
    run.step(*good)
    assert run.iterations == 2
    assert any(np.any(a != b) for a, b in zip(run.snapshot(), before))


def make_variables():
    """The kinds of state there are: a loss's, BatchNorm's on Keras 3 and 2."""
    mean = tf.VariableAggregation.MEAN
    on_read = tf.VariableSynchronization.ON_READ
    first = tf.VariableAggregation.ONLY_FIRST_REPLICA
    return [
        tf.Variable([1.0, 2.0], trainable=False, aggregation=first),
        tf.Variable(3.0, trainable=False, synchronization=on_read, aggregation=mean),
        tf.Variable(4.0, trainable=False, aggregation=mean),
    ]


@pytest.mark.parametrize("good", [True, False])
@pytest.mark.parametrize("replicas", ["one", "two"])
def test_a_skipped_step_gives_state_its_values_back(good, replicas, request):
    strategy = tf.distribute.get_strategy()
    if replicas == "two":
        strategy = request.getfixturevalue("two_replicas")
    with strategy.scope():
        trained, state = tf.Variable(1.0), make_variables()
        update = GradientUpdate(make_optimizer("sgd", 0.1), [trained])

    @tf.function(autograph=False)
    def step(gradient):
        def replica_step():
            before = [variable.read_value() for variable in state]
            for variable in state:
                variable.assign(variable * 10.0)
            update.apply([gradient * 1.0], 0.0, state, before)

        strategy.run(replica_step)

    step(tf.constant(1.0 if good else NAN))
    factor = 10.0 if good else 1.0
    for variable, value in zip(state, ([1.0, 2.0], 3.0, 4.0)):
        for copy in strategy.experimental_local_results(variable):
            np.testing.assert_array_equal(copy.numpy(), np.multiply(value, factor))


@pytest.mark.parametrize("replicas", [0, 2])
def test_scale_doubles_after_enough_good_steps_in_a_row(replicas):
    run = Run(replicas, loss_scaling="dynamic", initial_scale=8.0, growth_steps=3)
    good = [[1.0, 1.0, 1.0]] * run.replicas
    bad = [[NAN, 1.0, 1.0]] * run.replicas
    seen = []
    for gradients in [good, good, bad, good, good, good, good]:
        scalars = run.step(*gradients)
        seen.append((scalars["loss_scale"], int(run.state["good_steps"])))
    # Each step reports the scale it used; the bad one starts the count again.
    assert seen == [(8, 1), (8, 2), (8, 0), (4, 1), (4, 2), (4, 0), (8, 1)]
    assert run.state["loss_scale"] == 8.0
    assert run.iterations == 6


@pytest.mark.parametrize(("scaling", "first"), [("dynamic", 2.0), ("none", 1.0)])
def test_scale_never_falls_below_one(scaling, first):
    run = Run(loss_scaling=scaling, initial_scale=2.0)
    assert run.state["loss_scale"] == first
    for _ in range(3):
        run.step([NAN, 0.0, 0.0])
    assert run.state["loss_scale"] == 1.0
    assert run.state["skipped_steps"] == 3


def test_a_loss_that_is_not_finite_skips_the_step_too():
    run = Run()
    before = run.snapshot()
    gradients = [tf.constant([1.0, 1.0]), tf.constant([1.0])]
    for loss in (float("inf"), NAN):
        assert np.isnan(run.update.apply(gradients, loss)["gradient_norm"])
    for one, other in zip(before, run.snapshot()):
        np.testing.assert_array_equal(one, other)
    assert np.isfinite(run.update.apply(gradients, 3.0)["gradient_norm"])


@pytest.mark.parametrize("replicas", [0, 2])
def test_float16_gradients_are_summed_and_unscaled_in_float32(replicas):
    # 60,000 in float16 on each of two replicas is above its largest number, and
    # 2 ** -20 / 2 ** 15 below its smallest: both come through.
    run = Run(
        replicas,
        momentum=0.0,
        weight_decay=0.0,
        schedule=1.0,
        gradient_dtype=tf.float16,
        loss_scaling="dynamic",
        initial_scale=2.0**15,
    )
    # 4 * 2 ** 15 would be infinite in float16.
    assert float(run.update.scale_loss(tf.constant(4.0, tf.float16))) == 2.0**17
    large, small = 60000.0 / 2**15, 2.0**-20 / 2**15
    run.step(*[[large, small, 0.0]] * run.replicas)
    large = float(np.float16(60000.0)) / 2**15
    expected = [1.0 - large * run.replicas, 2.0]
    np.testing.assert_allclose(run.weight.numpy(), expected, rtol=1e-6)
    assert run.state["skipped_steps"] == 0

    run.weight.assign([0.0, 0.0])
    run.step(*[[0.0, small, 0.0]] * run.replicas)
    np.testing.assert_allclose(run.weight.numpy()[1], -small * run.replicas, rtol=1e-5)


def test_restored_state_is_used():
    run = Run(2, loss_scaling="dynamic", initial_scale=16.0, growth_steps=5)
    state = run.update.state
    assert not any(variable.trainable for variable in state.values())
    for name, value in (("loss_scale", 4.0), ("good_steps", 4), ("skipped_steps", 7)):
        state[name].assign(value)
    scalars = run.step([1.0, 1.0, 1.0], [1.0, 1.0, 1.0])
    assert scalars["loss_scale"] == 4.0
    assert scalars["skipped_steps"] == 7.0
    assert run.state == {"loss_scale": 8.0, "good_steps": 0, "skipped_steps": 7}


def test_sparse_gradients_are_made_dense():
    # Of a Keras variable, as all here may be.
    layer = keras.layers.Embedding(4, 1, embeddings_initializer="ones")
    layer.build((None,))
    update = GradientUpdate(
        make_optimizer("sgd", 0.1, momentum=0.0),
        [layer.embeddings],
        weight_decay=0.5,
        decay_variables=[layer.embeddings],
    )
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(tf.constant([1, 1, 3])))
    update.apply(tape.gradient(loss, [layer.embeddings]))
    # Rows 1 and 3 have gradients 2 and 1, and every row decays by 0.05.
    np.testing.assert_allclose(
        np.array(layer.embeddings)[:, 0], [0.95, 0.75, 0.95, 0.85], rtol=1e-6
    )


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"weight_decay": -1.0}, "`weight_decay` must be in"),
        ({"clip_norm": 0.0}, "`clip_norm` must be in"),
        ({"loss_scaling": "static"}, "`loss_scaling` must be one of 'none', 'dynamic'"),
    ],
)
def test_rejects_wrong_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        GradientUpdate(make_optimizer("sgd", 0.1), [tf.Variable(1.0)], **arguments)


@pytest.mark.parametrize("setting", ["weight_decay", "clipnorm", "global_clipnorm"])
def test_rejects_optimizers_that_decay_or_clip_themselves(setting):
    optimizer = keras.optimizers.SGD(learning_rate=0.1, **{setting: 0.1})
    with pytest.raises(ValueError, match=f"`{setting}`"):
        GradientUpdate(optimizer, [tf.Variable(1.0)])


def test_rejects_missing_gradients_by_name():
    variables = [tf.Variable(1.0, name="used"), tf.Variable(1.0, name="unused")]
    update = GradientUpdate(make_optimizer("sgd", 0.1), variables)
    with pytest.raises(ValueError, match="does not depend on: unused"):
        update.apply([tf.constant(1.0), None])


def test_refuses_to_run_outside_a_replica():
    run = Run(2)
    with run.strategy.scope():
        with pytest.raises(RuntimeError, match="replica context"):
            run.update.apply([tf.zeros(2), tf.zeros(1)])
