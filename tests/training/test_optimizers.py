"""Tests for `ekd_tf.training.optimizers`."""

import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.training.optimizers import OPTIMIZERS
from ekd_tf.training.optimizers import make_optimizer
from ekd_tf.training.schedules import StepSchedule


def path_of(optimizer, gradients):
    """Returns the values of a variable that starts at 1."""
    variable = tf.Variable(1.0)
    optimizer.build([variable])
    values = []
    for gradient in gradients:
        optimizer.apply_gradients([(tf.constant(gradient), variable)])
        values.append(float(variable.numpy()))
    return values


def test_sgd_by_hand():
    # m = -0.1; m = 0.9 * -0.1 - 0.2 = -0.29.
    path = path_of(make_optimizer("sgd", 0.1), [1.0, 2.0])
    np.testing.assert_allclose(path, [0.9, 0.61], rtol=1e-6)


def test_sgd_without_momentum():
    path = path_of(make_optimizer("sgd", 0.1, momentum=0.0), [1.0, 2.0])
    np.testing.assert_allclose(path, [0.9, 0.7], rtol=1e-6)


def test_nesterov_by_hand():
    # The step is 0.9 m - 0.1 g with the new m: 0.9 * -0.1 - 0.1 = -0.19; then
    # m = -0.29: 0.9 * -0.29 - 0.2 = -0.461.
    path = path_of(make_optimizer("sgd", 0.1, nesterov=True), [1.0, 2.0])
    np.testing.assert_allclose(path, [0.81, 0.349], rtol=1e-6)


def adam_np(gradients, rate, beta_1, beta_2, epsilon):
    value, mean, square, path = 1.0, 0.0, 0.0, []
    for t, gradient in enumerate(gradients, 1):
        mean = beta_1 * mean + (1 - beta_1) * gradient
        square = beta_2 * square + (1 - beta_2) * gradient**2
        # Kingma & Ba's second form: epsilon is added to the uncorrected root.
        step = rate * np.sqrt(1 - beta_2**t) / (1 - beta_1**t)
        value -= step * mean / (np.sqrt(square) + epsilon)
        path.append(value)
    return path


@pytest.mark.parametrize("arguments", [(0.9, 0.999, 1e-7), (0.5, 0.9, 0.1)])
def test_adam_matches_numpy(arguments):
    beta_1, beta_2, epsilon = arguments
    optimizer = make_optimizer(
        "adam", 0.1, momentum=beta_1, beta_2=beta_2, epsilon=epsilon
    )
    gradients = [1.0, -2.0, 0.5]
    expected = adam_np(gradients, 0.1, beta_1, beta_2, epsilon)
    np.testing.assert_allclose(path_of(optimizer, gradients), expected, rtol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_follows_a_schedule(name):
    # With a constant gradient and no memory, the second step is a tenth.
    schedule = StepSchedule(base=0.1, boundaries=[1])
    momentum = 1e-3 if name == "lion" else 0.0
    optimizer = make_optimizer(name, schedule, momentum=momentum)
    first, second = path_of(optimizer, [1.0, 1.0])
    np.testing.assert_allclose(first - second, 0.1 * (1.0 - first), rtol=1e-4)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_neither_decays_nor_clips(name):
    optimizer = make_optimizer(name, 0.1)
    for setting in ("weight_decay", "clipnorm", "clipvalue", "global_clipnorm"):
        assert not getattr(optimizer, setting)
    assert path_of(optimizer, [0.0]) == [1.0]


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"name": "sdg"}, "`optimizer` must be one of 'sgd', 'adam'.* Did you mean"),
        ({"name": "sgd", "momentum": 1.0}, "`momentum` must be in"),
        ({"name": "sgd", "momentum": 0.0, "nesterov": True}, "`nesterov` needs"),
        ({"name": "adam", "nesterov": True}, "`nesterov` applies to 'sgd' only"),
        ({"name": "adam", "beta_2": 1.5}, "`beta_2` must be in"),
        ({"name": "adam", "epsilon": 0.0}, "`epsilon` must be in"),
    ],
)
def test_rejects_wrong_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        make_optimizer(schedule=0.1, **arguments)
