"""Tests for `ekd_tf.training.decay`: one step of every kind, by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.training.optimizers import chosen_decay
from ekd_tf.training.optimizers import decay_kind
from ekd_tf.training.optimizers import make_optimizer
from ekd_tf.training.optimizers import set_lamb_decay
from ekd_tf.training.schedules import StepSchedule
from ekd_tf.training.update import GradientUpdate

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


def strategy_of(replicas):
    if replicas == 1:
        return tf.distribute.get_strategy()
    # Collectives of a second strategy in one process clash with the first one's.
    return tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(replicas)],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("name", [on_its_stack(name) for name in STEPS])
def test_one_step_by_hand(name, replicas):
    strategy = strategy_of(replicas)
    with strategy.scope():
        weight = tf.Variable([1.0, 2.0], name="weight")
        bias = tf.Variable([1.0], name="bias")
        update = GradientUpdate(
            make_optimizer(name, 0.1),
            [weight, bias],
            weight_decay=0.5,
            decay_variables=[weight],
        )
    gradients = [np.float32([1, -1]) / replicas, np.float32([2]) / replicas]
    step = tf.function(
        lambda: update.apply([tf.constant(g) for g in gradients]), autograph=False
    )
    strategy.run(step)
    for variable, expected in zip((weight, bias), STEPS[name]):
        for copy in strategy.experimental_local_results(variable):
            np.testing.assert_allclose(copy.numpy().squeeze(), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["adamw", on_its_stack("addons/SGDW")])
def test_decoupled_decay_follows_the_schedule(name):
    # Without a gradient each step leaves 1 - 0.5 * 0.1, then 1 - 0.5 * 0.01.
    weight = tf.Variable(1.0)
    update = GradientUpdate(
        make_optimizer(name, StepSchedule(base=0.1, boundaries=[1])),
        [weight],
        weight_decay=0.5,
        decay_variables=[weight],
    )
    path = []
    for _ in range(2):
        update.apply([tf.constant(0.0)])
        path.append(float(weight.numpy()))
    np.testing.assert_allclose(path, [0.95, 0.95 * 0.995], rtol=1e-6)


def test_a_skipped_step_decays_nothing():
    weight = tf.Variable(1.0)
    update = GradientUpdate(
        make_optimizer("adamw", 0.1), [weight], 0.5, decay_variables=[weight]
    )
    update.apply([tf.constant(float("nan"))])
    assert weight.numpy() == 1.0


def test_keras_adamw_agrees_where_it_decays_everything(rng):
    # Keras' own decoupled decay is the same where every variable decays.
    ours, theirs = tf.Variable([1.0, 2.0]), tf.Variable([1.0, 2.0])
    update = GradientUpdate(
        make_optimizer("adamw", 0.1), [ours], 0.5, decay_variables=[ours]
    )
    optimizer = keras.optimizers.AdamW(learning_rate=0.1, weight_decay=0.5)
    optimizer.build([theirs])
    for _ in range(3):
        gradient = tf.constant(rng.normal(size=2), tf.float32)
        update.apply([gradient])
        optimizer.apply_gradients([(gradient, theirs)])
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-5)


def test_kinds():
    assert decay_kind(make_optimizer("sgd", 0.1)) == "coupled"
    assert decay_kind(keras.optimizers.RMSprop(learning_rate=0.1)) == "coupled"
    assert decay_kind(make_optimizer("lion", 0.1)) == "decoupled"


class FakeLAMB:
    weight_decay = 0.0


def test_lamb_is_told_names_of_all_replicas_and_of_no_other():
    lamb = FakeLAMB()
    variables = [tf.Variable(1.0, name=name) for name in ("a/w", "a/b", "a/b2")]
    set_lamb_decay(lamb, 0.5, variables, [True, False, True])
    assert lamb.weight_decay == 0.5
    assert lamb.exclude_from_weight_decay == lamb.exclude_from_layer_adaptation
    (pattern,) = lamb.exclude_from_weight_decay
    for name in ("a/b:0", "a/b/replica_1:0"):
        assert tf.strings.regex_full_match(name, pattern)
    for name in ("a/w:0", "a/b2:0", "a/b2/replica_1:0", "aa/b:0"):
        assert not tf.strings.regex_full_match(name, pattern)


def test_lamb_refuses_names_it_cannot_tell_apart():
    variables = [tf.Variable(1.0, name="same"), tf.Variable(1.0, name="same")]
    with pytest.raises(ValueError, match="LAMB tells variables apart by name.*: same"):
        set_lamb_decay(FakeLAMB(), 0.5, variables, [True, False])


@pytest.mark.parametrize(
    "optimizer, given, expected",
    [
        (keras.optimizers.SGD(0.1), None, 5e-4),
        (keras.optimizers.SGD(0.1), 0.3, 0.3),
        # The one Keras gives AdamW where nobody does.
        (keras.optimizers.AdamW(0.1), None, 0.004),
        (keras.optimizers.AdamW(0.1), 0.3, 0.3),
        (keras.optimizers.AdamW(0.1), 0.0, 0.0),
        (keras.optimizers.AdamW(0.1, weight_decay=0.2), None, 0.2),
        (keras.optimizers.AdamW(0.1, weight_decay=0.2), 0.2, 0.2),
        (keras.optimizers.Lion(0.1, weight_decay=0.2), None, 0.2),
    ],
)
def test_the_decay_is_the_callers_or_else_the_optimizers(optimizer, given, expected):
    assert chosen_decay(optimizer, given) == expected


@pytest.mark.parametrize(
    "optimizer, words",
    [
        (keras.optimizers.AdamW(0.1, weight_decay=0.2), "given once.*0.2 and 0.3"),
        (keras.optimizers.SGD(0.1, weight_decay=0.2), "unless it is AdamW or Lion"),
    ],
)
def test_rejects_two_decays_and_one_of_another_kind(optimizer, words):
    with pytest.raises(ValueError, match=words):
        chosen_decay(optimizer, 0.3)


def test_an_optimizers_own_decay_acts_once_and_on_what_decays():
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    weight, bias = tf.Variable([1.0, 2.0]), tf.Variable([1.0])
    update = GradientUpdate(optimizer, [weight, bias], decay_variables=[weight])
    gradients = [tf.constant([1.0, -1.0]), tf.constant([2.0])]
    tf.function(lambda: update.apply(gradients), autograph=False)()
    for variable, expected in zip((weight, bias), STEPS["adamw"]):
        np.testing.assert_allclose(variable.numpy().squeeze(), expected, rtol=1e-5)
    assert optimizer.weight_decay == 0.5
