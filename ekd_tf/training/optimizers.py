"""Optimizers by name, without decay and clipping of their own."""

from __future__ import annotations

import keras

from ekd_tf.checks import check_choice
from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range
from ekd_tf.training.addons import PREFIX
from ekd_tf.training.addons import make_addons_optimizer

OPTIMIZERS = ("sgd", "adam", "adamw", "lion")


def make_optimizer(
    name: str,
    schedule,
    momentum: float = 0.9,
    nesterov: bool = False,
    beta_2: float | None = None,
    epsilon: float | None = None,
):
    """Builds the optimizer that `GradientUpdate` applies its gradients with.

    Weight decay and clipping are not set here: `GradientUpdate` does both, once,
    with one meaning for every optimizer. Create it under the strategy's scope.

    Keras keeps the learning rate inside the momentum (`m = mu m - lr g`), torch
    outside (`w -= lr m`): equal for a constant rate; after a drop the old rate
    fades out over about `1 / (1 - mu)` steps here.

    Args:
        name: One of `OPTIMIZERS`, or "addons/NAME" for one of TensorFlow Addons, or
            "addons/WRAPPER:NAME" (`make_addons_optimizer`).
        schedule: Learning rate: a float or a `LearningRateSchedule`.
        momentum: Float in [0, 1): momentum of SGD, `beta_1` of the others. Lion
            wants it above 0.
        nesterov: Whether SGD looks ahead; refused for the others.
        beta_2: Float in [0, 1): decay of Adam's second moment. None for the
            optimizer's own default.
        epsilon: Float > 0: added to the root of Adam's second moment. None for the
            optimizer's own default.

    Returns:
        A Keras optimizer.

    Raises:
        ValueError: If the name is unknown, a value is out of range, or TensorFlow
            Addons is asked for and not there.
    """
    check_range("momentum", momentum, low=0, high=1, high_open=True)
    if nesterov and momentum == 0:
        raise ValueError("`nesterov` needs `momentum` > 0. Received: momentum=0")
    if beta_2 is not None:
        check_range("beta_2", beta_2, low=0, high=1, high_open=True)
    if epsilon is not None:
        check_positive("epsilon", epsilon)
    if name.startswith(PREFIX):
        return make_addons_optimizer(
            name[len(PREFIX) :],
            schedule,
            momentum=momentum,
            nesterov=nesterov,
            beta_2=beta_2,
            epsilon=epsilon,
        )
    check_choice("optimizer", name, OPTIMIZERS)
    if name == "sgd":
        return keras.optimizers.SGD(
            learning_rate=schedule, momentum=momentum, nesterov=nesterov
        )
    if nesterov:
        raise ValueError(f"`nesterov` applies to 'sgd' only. Received: {name!r}")
    given = {"beta_2": beta_2, "epsilon": epsilon}
    given = {key: value for key, value in given.items() if value is not None}
    if name == "lion":
        return keras.optimizers.Lion(learning_rate=schedule, beta_1=momentum, **given)
    if name == "adam":
        return keras.optimizers.Adam(learning_rate=schedule, beta_1=momentum, **given)
    return keras.optimizers.AdamW(
        learning_rate=schedule, beta_1=momentum, weight_decay=0.0, **given
    )
