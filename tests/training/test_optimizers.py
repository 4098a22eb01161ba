"""Optimizers by name: one step of every kind by hand, decay, and Addons' own."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from refusals import refused
from updates import Run

from ekd_tf.training.optimizers import averaged
from ekd_tf.training.optimizers import chosen_decay
from ekd_tf.training.optimizers import make_optimizer
from ekd_tf.training.optimizers import set_lamb_decay
from ekd_tf.training.schedules import StepSchedule
from ekd_tf.training.update import GradientUpdate

pytestmark = pytest.mark.both_stacks
needs_addons = pytest.mark.keras2

# Every optimizer of TensorFlow Addons 0.23 that a name and a schedule make.
NAMES = (
    "AdaBelief AdamW LAMB LazyAdam NovoGrad ProximalAdagrad RectifiedAdam SGDW Yogi "
    "Lookahead:SGD Lookahead:LAMB MovingAverage:Adam SWA:SGDW"
).split()

ROOT_2, ROOT_5 = 2**0.5, 5**0.5
# The weights [1, 2] have the gradients [1, -1], the decay is 0.5 and the rate 0.1.
# Coupled, the gradients become [1.5, 0]: SGD takes 0.1 of them, Adam (whose first step
# is the rate times the sign) 0.1 of [1, 0].
# Decoupled, the weights become 0.95 of themselves, [0.95, 1.9], and then the step is
# made as it were without decay: 0.1 of the signs or of the gradients, which is the
# same; NovoGrad divides the gradients by their norm, sqrt(2).
# LAMB's update is [1, -1] + 0.5 * [1, 2] = [1.5, 0], which it brings to the norm of the
# weights: 0.1 * sqrt(5) of [1, 0].
# The bias 1 has the gradient 2 and does not decay, nor does LAMB look at its norm.
STEPS = {
    "sgd": ([0.85, 2.0], 0.8),
    "adam": ([0.9, 2.0], 0.9),
    "adamw": ([0.85, 2.0], 0.9),
    "lion": ([0.85, 2.0], 0.9),
    "addons/LazyAdam": ([0.9, 2.0], 0.9),
    "addons/SGDW": ([0.85, 2.0], 0.8),
    "addons/AdamW": ([0.85, 2.0], 0.9),
    "addons/RectifiedAdam": ([0.85, 2.0], 0.8),
    "addons/AdaBelief": ([0.85, 2.0], 0.8),
    "addons/NovoGrad": ([0.95 - 0.1 / ROOT_2, 1.9 + 0.1 / ROOT_2], 0.9),
    "addons/LAMB": ([1.0 - 0.1 * ROOT_5, 2.0], 0.9),
    "addons/Lookahead:SGD": ([0.85, 2.0], 0.8),
    "addons/Lookahead:SGDW": ([0.85, 2.0], 0.8),
    "addons/Lookahead:LAMB": ([1.0 - 0.1 * ROOT_5, 2.0], 0.9),
}


def on_its_stack(name):
    """Marks an optimizer of TensorFlow Addons as one of the stack that has it."""
    marks = pytest.mark.keras2 if name.startswith("addons/") else ()
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize("replicas", [0, 2])
@pytest.mark.parametrize("name", [on_its_stack(name) for name in STEPS])
def test_one_step_by_hand(name, replicas):
    run = Run(replicas, name, weight_decay=0.5)
    run.step(*[np.array([1.0, -1.0, 2.0]) / run.replicas] * run.replicas)
    for variable, expected in zip((run.weight, run.bias), STEPS[name]):
        run.check(variable, np.reshape(expected, variable.shape), rtol=1e-5)


def path_of(optimizer, gradients, **arguments):
    """Returns the values of a variable that starts at 1 and decays if anything does."""
    variable = tf.Variable(1.0)
    arguments["decay_variables"] = [variable]
    update = GradientUpdate(optimizer, [variable], **arguments)
    values = []
    for gradient in gradients:
        update.apply([tf.constant(gradient)])
        values.append(float(variable.numpy()))
    return values


@pytest.mark.parametrize("name", ["adamw", on_its_stack("addons/SGDW")])
def test_decoupled_decay_follows_the_schedule(name):
    # Without a gradient each step leaves 1 - 0.5 * 0.1, then 1 - 0.5 * 0.01.
    optimizer = make_optimizer(name, StepSchedule(base=0.1, boundaries=[1]))
    path = path_of(optimizer, [0.0, 0.0], weight_decay=0.5)
    np.testing.assert_allclose(path, [0.95, 0.95 * 0.995], rtol=1e-6)


def test_a_skipped_step_decays_nothing_and_the_optimizers_own_decay_acts_once():
    assert path_of(make_optimizer("adamw", 0.1), [np.nan], weight_decay=0.5) == [1.0]
    # The optimizer's own: 0.95 of 1, and a step of 0.1.
    own = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    np.testing.assert_allclose(path_of(own, [1.0]), [0.85], rtol=1e-5)
    assert own.weight_decay == 0.5


class WithoutDecay(keras.optimizers.SGD):
    """Takes no decay; the base class of Keras 2 has one of 0."""

    def __init__(self):
        super().__init__(0.1)
        self.weight_decay = 0


def test_the_decay_is_the_callers_or_else_the_optimizers():
    adamw, own = keras.optimizers.AdamW, {"weight_decay": 0.2}
    for optimizer, given, expected in (
        (keras.optimizers.SGD(0.1), None, 5e-4),
        (keras.optimizers.RMSprop(0.1), 0.3, 0.3),
        # The one Keras gives AdamW where nobody does.
        (adamw(0.1), None, 0.004),
        (adamw(0.1), 0.3, 0.3),
        (adamw(0.1), 0.0, 0.0),
        (adamw(0.1, **own), None, 0.2),
        (adamw(0.1, weight_decay=0.0), None, 0.0),
        (make_optimizer("adamw", 0.1), None, 5e-4),
        (WithoutDecay(), None, 5e-4),
        (keras.optimizers.Lion(0.1, **own), 0.2, 0.2),
    ):
        assert chosen_decay(optimizer, given) == expected
    refused("given once.*0.2 and 0.3", chosen_decay, adamw(0.1, **own), 0.3)
    sgd = keras.optimizers.SGD(0.1, **own)
    refused("unless it is AdamW or Lion", chosen_decay, sgd, 0.3)


def test_lamb_is_given_names_of_all_replicas_and_of_no_other():
    lamb = types.SimpleNamespace(weight_decay=0.0)
    variables = [tf.Variable(1.0, name=name) for name in ("a/w", "a/b", "a/b2")]
    set_lamb_decay(lamb, 0.5, variables, [True, False, True])
    assert lamb.weight_decay == 0.5
    assert lamb.exclude_from_weight_decay == lamb.exclude_from_layer_adaptation
    (pattern,) = lamb.exclude_from_weight_decay
    for name in ("a/b:0", "a/b/replica_1:0"):
        assert tf.strings.regex_full_match(name, pattern)
    for name in ("a/w:0", "a/b2:0", "a/b2/replica_1:0", "aa/b:0"):
        assert not tf.strings.regex_full_match(name, pattern)
    variables = [tf.Variable(1.0, name="same"), tf.Variable(1.0, name="same")]
    refused("by name.*: same", set_lamb_decay, lamb, 0.5, variables, [True, False])


@needs_addons
@pytest.mark.parametrize("name", NAMES)
def test_replicas_take_the_steps_of_one_and_resume_where_they_were(name, rng):
    # The rate falls on the way: every replica must see the same.
    arguments = f"addons/{name}", StepSchedule(base=0.1, boundaries=[2])
    one, two, resumed = (Run(replicas, *arguments) for replicas in (0, 2, 0))
    start = one.snapshot()
    for _ in range(4):
        parts = rng.normal(size=(2, 3))
        one.step(parts.sum(axis=0))
        two.step(*parts)
    assert not np.array_equal(one.snapshot()[0], start[0])
    for variable, shared in zip(one.held, two.held):
        (value,) = one.copies(variable)
        two.check(shared, value, rtol=2e-5, atol=1e-6, err_msg=variable.name)
    # Everything the run must restore is there before the first step.
    for variable, value in zip(resumed.held, one.snapshot()):
        variable.assign(value)
    for run in (one, resumed):
        run.step([0.3, -0.4, 0.5])
    for mine, other in zip(resumed.snapshot(), one.snapshot()):
        np.testing.assert_array_equal(mine, other)


@needs_addons
def test_lookahead_by_hand():
    # Gradient 1 and rate 0.1: after five steps 0.5; the sixth leads to 0.4, and half
    # of the way back from there to the slow weight of 1 is 0.7, from where the
    # seventh step sets out. A bad gradient moves neither.
    optimizer = make_optimizer("addons/Lookahead:SGD", 0.1, momentum=0.0)
    gradients = [1.0] * 5 + [np.nan] + [1.0] * 2
    path = path_of(optimizer, gradients, weight_decay=0.0)
    np.testing.assert_allclose(path[4:], [0.5, 0.5, 0.7, 0.6], rtol=1e-6)


@needs_addons
def test_momentum_reaches_the_optimizer_in_its_own_spelling():
    def config(name):
        return make_optimizer(f"addons/{name}", 0.1, momentum=0.5).get_config()

    assert config("Yogi")["beta1"] == 0.5
    assert config("SGDW")["momentum"] == 0.5
    assert config("Lookahead:Adam")["optimizer"]["config"]["beta_1"] == 0.5


@needs_addons
@pytest.mark.parametrize("replicas", [0, 2])
def test_moving_average_is_lent_and_taken_back_by_hand(replicas):
    # w = 1, 0.9, 0.8: the average with decay 0.99 is 0.99 + 0.01 * 0.9 = 0.999, then
    # 0.99 * 0.999 + 0.01 * 0.8 = 0.99701. Of 2 it is 1 more.
    run = Run(replicas, "addons/MovingAverage:SGD", momentum=0.0, weight_decay=0.0)
    for _ in range(2):
        run.step(*np.ones((run.replicas, 3)) / run.replicas)
    with averaged(run.optimizer, [run.weight]):
        run.check(run.weight, [0.99701, 1.99701])
    run.check(run.weight, [0.8, 1.8])


@needs_addons
def test_swa_has_no_average_before_its_first_snapshot():
    run = Run(optimizer="addons/SWA:SGD", momentum=0.0, weight_decay=0.0)
    with averaged(run.optimizer, [run.weight]):
        run.check(run.weight, [1.0, 2.0])
    # Snapshots in steps 1 and 11: the weights 0.9 and -0.1, whose mean is 0.4.
    for _ in range(11):
        run.step([1.0, 1.0, 1.0])
    with averaged(run.optimizer, [run.weight]):
        run.check(run.weight, [0.4, 1.4], rtol=1e-5)


@needs_addons
def test_rejects_what_addons_cannot_make():
    for name, words in (
        ("LAMP", "one of 'addons/LAMB'.*Received: 'addons/LAMP'.* mean 'addons/LAMB'"),
        ("Lookahead", "wraps another: addons/Lookahead:SGD. It takes .*RMSprop.*LAMB"),
        ("LAMB:SGD", "'addons/LAMB' wraps no other. Received: 'LAMB:SGD'"),
        ("Lookahead:SDG", "inside Lookahead` must be one of .*Did you mean 'SGD'"),
        ("Lookahead:SWA", "inside Lookahead` must be one of"),
        ("COCOB", "must be one of"),
    ):
        refused(words, make_optimizer, f"addons/{name}", 0.1)
    words, name = "no effect on ProximalAdagrad", "addons/ProximalAdagrad"
    refused(words, make_optimizer, name, 0.1, momentum=0.8)


@pytest.mark.keras3
def test_the_current_stack_says_what_to_install():
    refused(r"pip install '\.\[addons\]'", make_optimizer, "addons/LAMB", 0.1)


def test_rejects_wrong_arguments():
    refused("one of 'sgd', 'adam'.* Did you mean 'sgd'", make_optimizer, "sdg", 0.1)
    refused("`momentum` must be in", make_optimizer, "sgd", 0.1, momentum=1.0)
