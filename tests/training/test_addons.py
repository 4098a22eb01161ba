"""Tests for `ekd_tf.training.addons`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.keras_compat import optimizer_variables
from ekd_tf.training.optimizers import averaged
from ekd_tf.training.optimizers import make_optimizer
from ekd_tf.training.schedules import StepSchedule
from ekd_tf.training.update import GradientUpdate

needs_addons = pytest.mark.keras2

# Every optimizer of TensorFlow Addons 0.23 that a name and a schedule make.
NAMES = [
    "AdaBelief",
    "AdamW",
    "LAMB",
    "LazyAdam",
    "NovoGrad",
    "ProximalAdagrad",
    "RectifiedAdam",
    "SGDW",
    "Yogi",
    "Lookahead:SGD",
    "Lookahead:LAMB",
    "MovingAverage:Adam",
    "SWA:SGDW",
]


def strategy_of(replicas):
    if replicas == 1:
        return tf.distribute.get_strategy()
    # Collectives of a second strategy in one process clash with the first one's.
    return tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(replicas)],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


class Run:
    """A decaying weight and a bias, updated by gradients that depend on them."""

    def __init__(self, name, replicas=1, schedule=0.1, **arguments):
        self.strategy = strategy_of(replicas)
        with self.strategy.scope():
            self.weight = tf.Variable([1.0, 2.0], name="weight")
            self.bias = tf.Variable([1.0], name="bias")
            self.optimizer = make_optimizer(f"addons/{name}", schedule, **arguments)
            self.update = GradientUpdate(
                self.optimizer,
                [self.weight, self.bias],
                weight_decay=0.01,
                decay_variables=[self.weight],
            )

        def replica_step():
            weight, bias = self.weight.read_value(), self.bias.read_value()
            gradients = [weight**2 - 2.0, tf.sin(bias)]
            return self.update.apply([g / replicas for g in gradients])

        @tf.function(autograph=False)
        def step():
            return self.strategy.run(replica_step)

        self.step = step

    @property
    def held(self):
        return [self.weight, self.bias, *optimizer_variables(self.optimizer)]

    def values(self):
        return [np.array(variable.numpy()) for variable in self.held]


@needs_addons
@pytest.mark.parametrize("name", NAMES)
def test_replicas_take_the_steps_of_one_and_resume_where_they_were(name):
    # The rate falls on the way: every replica must see the same.
    schedule = StepSchedule(base=0.1, boundaries=[2])
    one, two = Run(name, schedule=schedule), Run(name, replicas=2, schedule=schedule)
    start = one.values()
    for _ in range(4):
        one.step()
        two.step()
    assert not np.array_equal(one.values()[0], start[0])
    for mine, other, variable in zip(two.values(), one.values(), one.held):
        np.testing.assert_allclose(
            mine, other, rtol=2e-5, atol=1e-6, err_msg=variable.name
        )

    # Everything the run must restore is there before the first step.
    resumed = Run(name, schedule=schedule)
    for variable, value in zip(resumed.held, one.values()):
        variable.assign(value)
    one.step()
    resumed.step()
    for mine, other, variable in zip(resumed.values(), one.values(), one.held):
        np.testing.assert_array_equal(mine, other, err_msg=variable.name)


@needs_addons
def test_lookahead_by_hand():
    # Gradient 1 and rate 0.1: after five steps 0.5; the sixth leads to 0.4, and half
    # of the way back from there to the slow weight of 1 is 0.7, from where the
    # seventh step sets out.
    variable = tf.Variable(1.0)
    optimizer = make_optimizer("addons/Lookahead:SGD", 0.1, momentum=0.0)
    update = GradientUpdate(optimizer, [variable], weight_decay=0.0)
    path = []
    for _ in range(7):
        update.apply([tf.constant(1.0)])
        path.append(float(variable.numpy()))
    np.testing.assert_allclose(path[4:], [0.5, 0.7, 0.6], rtol=1e-6)


@needs_addons
def test_momentum_and_the_like_reach_the_optimizer_in_its_own_spelling():
    def config(name, **arguments):
        return make_optimizer(f"addons/{name}", 0.1, **arguments).get_config()

    yogi = config("Yogi", momentum=0.5, beta_2=0.75, epsilon=0.125)
    assert (yogi["beta1"], yogi["beta2"], yogi["epsilon"]) == (0.5, 0.75, 0.125)
    sgdw = config("SGDW", momentum=0.5, nesterov=True)
    assert (sgdw["momentum"], sgdw["nesterov"]) == (0.5, True)
    assert (
        config("Lookahead:Adam", momentum=0.5)["optimizer"]["config"]["beta_1"] == 0.5
    )
    # Not ours but its own where none is given.
    assert config("LAMB")["epsilon"] == 1e-6


@needs_addons
def test_a_bad_gradient_leaves_the_slow_weights_alone():
    variable = tf.Variable(1.0)
    optimizer = make_optimizer("addons/Lookahead:SGD", 0.1)
    update = GradientUpdate(optimizer, [variable])
    for _ in range(5):
        update.apply([tf.constant(1.0)])
    held = [variable, *optimizer_variables(optimizer)]
    before = [v.numpy() for v in held]
    update.apply([tf.constant(float("nan"))])
    assert [v.numpy() for v in held] == before


@needs_addons
@pytest.mark.parametrize("replicas", [1, 2])
def test_moving_average_is_lent_and_taken_back_by_hand(replicas):
    # w = 1, 0.9, 0.8: the average with decay 0.99 is 0.99 + 0.01 * 0.9 = 0.999, then
    # 0.99 * 0.999 + 0.01 * 0.8 = 0.99701.
    strategy = strategy_of(replicas)
    with strategy.scope():
        variable = tf.Variable(1.0)
        optimizer = make_optimizer("addons/MovingAverage:SGD", 0.1, momentum=0.0)
        update = GradientUpdate(optimizer, [variable], weight_decay=0.0)
    for _ in range(2):
        strategy.run(lambda: update.apply([tf.constant(1.0 / replicas)]))
    with averaged(optimizer, [variable]):
        for copy in strategy.experimental_local_results(variable):
            np.testing.assert_allclose(copy.numpy(), 0.99701, rtol=1e-6)
    for copy in strategy.experimental_local_results(variable):
        np.testing.assert_allclose(copy.numpy(), 0.8, rtol=1e-6)


@needs_addons
def test_swa_has_no_average_before_its_first_snapshot():
    variable = tf.Variable(1.0)
    optimizer = make_optimizer("addons/SWA:SGD", 0.1, momentum=0.0)
    update = GradientUpdate(optimizer, [variable], weight_decay=0.0)
    with averaged(optimizer, [variable]):
        assert variable.numpy() == 1.0
    # Snapshots in steps 1 and 11: the weights 0.9 and -0.1, whose mean is 0.4.
    for _ in range(11):
        update.apply([tf.constant(1.0)])
    with averaged(optimizer, [variable]):
        np.testing.assert_allclose(variable.numpy(), 0.4, rtol=1e-5)


def test_an_optimizer_that_averages_nothing_lends_nothing():
    variable = tf.Variable(1.0)
    optimizer = make_optimizer("sgd", 0.1)
    with averaged(optimizer, [variable]):
        assert variable.numpy() == 1.0


@needs_addons
@pytest.mark.parametrize(
    "name, words",
    [
        ("LAMP", "one of 'addons/LAMB'.*Received: 'addons/LAMP'.* mean 'addons/LAMB'"),
        ("Lookahead", "wraps another: addons/Lookahead:SGD. It takes .*RMSprop.*LAMB"),
        ("LAMB:SGD", "'addons/LAMB' wraps no other. Received: 'LAMB:SGD'"),
        ("Lookahead:SDG", "inside Lookahead` must be one of .*Did you mean 'SGD'"),
        ("Lookahead:SWA", "inside Lookahead` must be one of"),
        ("COCOB", "must be one of"),
        ("CyclicalLearningRate", "must be one of"),
    ],
)
def test_rejects_what_it_cannot_make(name, words):
    with pytest.raises(ValueError, match=words):
        make_optimizer(f"addons/{name}", 0.1)


@needs_addons
def test_rejects_nesterov_of_what_has_none():
    with pytest.raises(ValueError, match="`nesterov` applies to SGD only.*LAMB"):
        make_optimizer("addons/LAMB", 0.1, nesterov=True)


@pytest.mark.keras3
def test_the_current_stack_says_what_to_install():
    with pytest.raises(
        ValueError,
        match=r"`--optimizer=addons/LAMB` needs TensorFlow Addons.*"
        r"pip install '\.\[addons\]'",
    ):
        make_optimizer("addons/LAMB", 0.1)


@needs_addons
def test_names_all_that_addons_has():
    import tensorflow_addons as addons

    exported = {
        name
        for name, kind in vars(addons.optimizers).items()
        if isinstance(kind, type)
        and issubclass(kind, keras.optimizers.legacy.Optimizer)
    }
    tested = {name.split(":")[0] for name in NAMES}
    assert exported - tested == {
        "AveragedOptimizerWrapper",
        "COCOB",
        "ConditionalGradient",
        "KerasLegacyOptimizer",
        "MultiOptimizer",
    }
