import keras
import numpy as np
import pytest
import tensorflow as tf
from refusals import refused
from updates import Run

from ekd_tf.training.optimizers import make_optimizer
from ekd_tf.training.schedules import StepSchedule
from ekd_tf.training.update import GradientUpdate

NAN = float("nan")
INF = float("inf")


@pytest.mark.parametrize("replicas, loss_scaling", [(0, "none"), (2, "dynamic")])
def test_clips_by_the_global_norm_before_decay_by_hand(replicas, loss_scaling):
    # Gradients [4, 12] and [3], norm sqrt(16 + 144 + 9) = 13; clipped to 6.5 they are
    # halved. Decay 1 then adds the weights [1, 2] to the first, and not to the bias:
    # 1 - 0.1 * (2 + 1), 2 - 0.1 * (6 + 2), 1 - 0.1 * 1.5.
    arguments = {"weight_decay": 1.0, "clip_norm": 6.5, "loss_scaling": loss_scaling}
    run = Run(replicas, momentum=0.0, **arguments)
    # Unequal parts: clipping each replica's would give another sum.
    parts = [[4.0, 12.0, 3.0]] if replicas == 0 else [[3.0, 13.0, 3.0], [1, -1, 0]]
    scalars = run.step(*parts)
    np.testing.assert_allclose(scalars["gradient_norm"], 13.0, rtol=1e-6)
    run.check(run.weight, [0.7, 1.2])
    run.check(run.bias, [0.85])
    # Below the limit only the decay of [0.7, 1.2] is added.
    assert run.step(*[[0.0, 0.0, 0.0]] * len(parts))["gradient_norm"] == 0.0
    run.step([3.0, 4.0, 0.0], *[[0.0, 0.0, 0.0]] * (len(parts) - 1))
    run.check(run.weight, [0.7 * 0.81 - 0.3, 1.2 * 0.81 - 0.4], rtol=1e-5)


@pytest.mark.both_stacks
@pytest.mark.parametrize(
    "optimizer",
    [
        "adam",
        # Does part of its arithmetic outside `update_step` on Keras 3; that of Keras
        # 2.15 diverges on several replicas.
        pytest.param(keras.optimizers.Nadam, marks=pytest.mark.keras3),
        # Not the class itself: may override anything.
        type("Mine", (keras.optimizers.SGD,), {}),
    ],
)
def test_replicas_take_the_step_of_one_on_the_sum(rng, optimizer):
    # The schedule drops inside the run: every replica must see the same rate.
    arguments = {"weight_decay": 0.01, "clip_norm": 2.0, "loss_scaling": "dynamic"}
    arguments["schedule"] = StepSchedule(base=0.1, boundaries=[2])
    arguments["optimizer"] = optimizer
    one, several = Run(0, **arguments), Run(4, **arguments)
    for _ in range(4):
        parts = rng.normal(size=(4, 3))
        expected = one.step(parts.sum(axis=0))
        scalars = several.step(*parts)
        for name, value in expected.items():
            np.testing.assert_allclose(scalars[name], value, rtol=1e-5)
    for variable in ("weight", "bias"):
        value = getattr(one, variable).numpy()
        several.check(getattr(several, variable), value, rtol=1e-5)
    assert one.iterations == several.iterations == 4


@pytest.mark.parametrize(
    "replicas, scaling, bad, scale, halved",
    [(0, "none", NAN, 1.0, 1.0), (2, "dynamic", -INF, 64.0, 32.0)],
)
def test_a_bad_gradient_on_one_replica_skips_the_step_on_all(
    replicas, scaling, bad, scale, halved
):
    arguments = {"loss_scaling": scaling, "initial_scale": 64.0}
    run = Run(replicas, "adam", clip_norm=1.0, **arguments)
    good = [[1.0, 2.0, 3.0]] * run.replicas
    run.step(*good)
    before = run.snapshot()
    scalars = run.step(*good[:-1], [1.0, bad, 3.0])
    for held, kept in zip(run.snapshot(), before):
        np.testing.assert_array_equal(held, kept)
    assert run.iterations == 1
    assert scalars["skipped_steps"] == 1.0
    assert np.isnan(scalars["gradient_norm"])
    assert scalars["loss_scale"] == scale
    assert run.state == {"loss_scale": halved, "good_steps": 0, "skipped_steps": 1}
    if replicas:
        # Infinities that cancel in no sum.
        run.step([INF, 1.0, 1.0], [-INF, 1.0, 1.0])
        assert run.state["skipped_steps"] == 2
    # Training goes on from where it was.
    run.step(*good)
    assert run.iterations == 2
    assert any(np.any(a != b) for a, b in zip(run.snapshot(), before))


def test_scale_doubles_after_enough_good_steps_in_a_row():
    run = Run(2, loss_scaling="dynamic", initial_scale=8.0, growth_steps=3)
    good, bad = [[1.0, 1.0, 1.0]] * 2, [[NAN, 1.0, 1.0]] * 2
    seen = []
    for gradients in [good, good, bad, good, good, good, good]:
        scalars = run.step(*gradients)
        seen.append((scalars["loss_scale"], int(run.state["good_steps"])))
    # Each step reports the scale it used; the bad one starts the count again.
    assert seen == [(8, 1), (8, 2), (8, 0), (4, 1), (4, 2), (4, 0), (8, 1)]
    assert run.state["loss_scale"] == 8.0
    assert run.iterations == 6
    # Without an end it would be infinite after years, and stay so.
    run = Run(2, loss_scaling="dynamic", initial_scale=2.0**64, growth_steps=1)
    run.step(*good)
    assert run.state["loss_scale"] == 2.0**64


def test_scale_never_falls_below_one():
    run = Run(loss_scaling="dynamic", initial_scale=2.0)
    assert run.state["loss_scale"] == 2.0
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


def test_float16_gradients_are_summed_and_unscaled_in_float32():
    # 60,000 in float16 on each of two replicas is above its largest number, and
    # 2 ** -20 / 2 ** 15 below its smallest: both come through.
    plain = {"momentum": 0.0, "weight_decay": 0.0, "schedule": 1.0}
    scaling = {"loss_scaling": "dynamic", "initial_scale": 2.0**15}
    run = Run(2, gradient_dtype=tf.float16, **plain, **scaling)
    # 4 * 2 ** 15 would be infinite in float16.
    assert float(run.update.scale_loss(tf.constant(4.0, tf.float16))) == 2.0**17
    large, small = 60000.0 / 2**15, 2.0**-20 / 2**15
    run.step(*[[large, small, 0.0]] * 2)
    expected = [1.0 - 2 * float(np.float16(60000.0)) / 2**15, 2.0]
    np.testing.assert_allclose(run.weight.numpy(), expected, rtol=1e-6)
    assert run.state["skipped_steps"] == 0

    run.weight.assign([0.0, 0.0])
    run.step(*[[0.0, small, 0.0]] * 2)
    np.testing.assert_allclose(run.weight.numpy()[1], -2 * small, rtol=1e-5)


def test_sparse_gradients_are_made_dense():
    # Of a Keras variable, as all here may be.
    layer = keras.layers.Embedding(4, 1, embeddings_initializer="ones")
    layer.build((None,))
    sgd, table = make_optimizer("sgd", 0.1, momentum=0.0), [layer.embeddings]
    update = GradientUpdate(sgd, table, weight_decay=0.5, decay_variables=table)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(tf.constant([1, 1, 3])))
    update.apply(tape.gradient(loss, table))
    # Rows 1 and 3 have gradients 2 and 1, and every row decays by 0.05.
    found = np.array(layer.embeddings)[:, 0]
    np.testing.assert_allclose(found, [0.95, 0.75, 0.95, 0.85], rtol=1e-6)


def test_rejects_wrong_arguments_and_optimizers_that_decay_or_clip():
    for own, arguments, words in (
        ({}, {"weight_decay": -1.0}, "`weight_decay` must be in"),
        ({}, {"clip_norm": 0.0}, "`clip_norm` must be in"),
        ({}, {"loss_scaling": "static"}, "`loss_scaling` must be one of 'none', 'dyn"),
        ({}, {"initial_scale": float("nan")}, r"`initial_scale` must be in \[1.0, inf"),
        ({}, {"growth_steps": 0}, r"`growth_steps` must be in \[1, inf"),
        # What the optimizer would do by itself.
        ({"weight_decay": 0.1}, {}, "`weight_decay`"),
        ({"clipnorm": 0.1}, {}, "`clipnorm`"),
        ({"global_clipnorm": 0.1}, {}, "`global_clipnorm`"),
    ):
        optimizer = keras.optimizers.SGD(0.1, **own)
        refused(words, GradientUpdate, optimizer, [tf.Variable(1.0)], **arguments)
    scaled = keras.mixed_precision.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    refused("leave the loss scale", GradientUpdate, scaled, [tf.Variable(1.0)])


def test_rejects_missing_gradients_by_name_and_calls_outside_a_replica():
    variables = [tf.Variable(1.0, name="used"), tf.Variable(1.0, name="unused")]
    update = GradientUpdate(make_optimizer("sgd", 0.1), variables)
    refused("does not depend on: unused", update.apply, [tf.constant(1.0), None])
    run = Run(2)
    with run.strategy.scope():
        apply = run.update.apply
        refused("replica context", apply, [tf.zeros(2)] * 2, error=RuntimeError)


def test_skips_a_step_whose_finite_gradients_have_an_infinite_norm():
    variable = tf.Variable([1.0, 2.0])
    update = GradientUpdate(make_optimizer("sgd", 0.1), [variable], clip_norm=1.0)
    out = update.apply([tf.constant([3e19, 4e19])])
    assert np.isnan(out["gradient_norm"]) and out["skipped_steps"] == 1
    np.testing.assert_array_equal(variable, [1.0, 2.0])
