"""Keras optimizers by name, without decay and clipping of their own."""

from __future__ import annotations

import keras

from ekd_tf.checks import check_choice
from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range

OPTIMIZERS = ("sgd", "adam")


def make_optimizer(
    name: str,
    schedule,
    momentum: float = 0.9,
    nesterov: bool = False,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
):
    """Builds the optimizer that `GradientUpdate` applies its gradients with.

    Weight decay and clipping are not set here: `GradientUpdate` does both, once,
    with one meaning for every optimizer. Create it under the strategy's scope.

    Keras keeps the learning rate inside the momentum (`m = mu m - lr g`), torch
    outside (`w -= lr m`): equal for a constant rate; after a drop the old rate
    fades out over about `1 / (1 - mu)` steps here.

    Args:
        name: One of `OPTIMIZERS`.
        schedule: Learning rate: a float or a `LearningRateSchedule`.
        momentum: Float in [0, 1): momentum of SGD, `beta_1` of Adam.
        nesterov: Whether SGD looks ahead; refused for the others.
        beta_2: Float in [0, 1): decay of Adam's second moment.
        epsilon: Float > 0: added to the root of Adam's second moment.

    Returns:
        A `keras.optimizers.Optimizer`.
    """
    check_choice("optimizer", name, OPTIMIZERS)
    check_range("momentum", momentum, low=0, high=1, high_open=True)
    if name == "sgd":
        if nesterov and momentum == 0:
            raise ValueError("`nesterov` needs `momentum` > 0. Received: momentum=0")
        return keras.optimizers.SGD(
            learning_rate=schedule, momentum=momentum, nesterov=nesterov
        )
    if nesterov:
        raise ValueError(f"`nesterov` applies to 'sgd' only. Received: {name!r}")
    check_range("beta_2", beta_2, low=0, high=1, high_open=True)
    check_positive("epsilon", epsilon)
    return keras.optimizers.Adam(
        learning_rate=schedule, beta_1=momentum, beta_2=beta_2, epsilon=epsilon
    )
