"""The optimizers of TensorFlow Addons, by name; imported only when asked for."""

from __future__ import annotations

import contextlib
import inspect

import keras
from absl import logging

from ekd_tf.checks import check_choice
from ekd_tf.keras_compat import IS_KERAS_3
from ekd_tf.keras_compat import tf_variable

PREFIX = "addons/"

# What `tensorflow_addons.optimizers` exports beside the optimizers that a name and a
# schedule make: two base classes; COCOB has no learning rate, ConditionalGradient
# takes no schedule, MultiOptimizer wants layers.
_OTHERS = {
    "AveragedOptimizerWrapper",
    "COCOB",
    "ConditionalGradient",
    "KerasLegacyOptimizer",
    "MultiOptimizer",
}


def make_addons_optimizer(name: str, schedule, **hyperparameters):
    """Builds an optimizer of TensorFlow Addons, or a wrapper around another.

    Args:
        name: "LAMB", or "Lookahead:SGD" for a wrapper and what it wraps, which is an
            optimizer of Addons or of `keras.optimizers.legacy`.
        schedule: Learning rate: a float or a `LearningRateSchedule`.
        **hyperparameters: `momentum` (also of the first moment), `nesterov`,
            `beta_2` and `epsilon`, where the optimizer has them; None for its own
            default.

    Returns:
        A `keras.optimizers.legacy.Optimizer` without decay and clipping of its own.

    Raises:
        ValueError: If TensorFlow Addons is not there (with the command that installs
            it), a name is unknown, or a wrapper has nothing to wrap.
    """
    optimizers = _optimizers_of_addons(name)
    outer, *inner = name.split(":", 1)
    check_choice("optimizer", PREFIX + outer, [PREFIX + each for each in optimizers])
    if not _wraps(optimizers[outer]):
        if inner:
            raise ValueError(
                f"`optimizer` '{PREFIX}{outer}' wraps no other. Received: {name!r}"
            )
        return _make(optimizers[outer], schedule, hyperparameters)
    choices = {
        **_classes_in(keras.optimizers.legacy, keras.optimizers.legacy.Optimizer),
        **optimizers,
    }
    choices = {each: kind for each, kind in choices.items() if not _wraps(kind)}
    if not inner:
        raise ValueError(
            f"`optimizer` '{PREFIX}{outer}' wraps another: {PREFIX}{outer}:SGD. "
            f"It takes {', '.join(choices)}"
        )
    check_choice(f"optimizer inside {outer}", inner[0], choices)
    return optimizers[outer](_make(choices[inner[0]], schedule, hyperparameters))


@contextlib.contextmanager
def averaged(optimizer, variables):
    """Lends variables the averages that SWA or MovingAverage keep of them.

    Other optimizers, and SWA before its first snapshot, leave them as they are. The
    moving statistics of BatchNorm are no trained variables: they stay those of the
    last step.

    Args:
        optimizer: The optimizer that updates `variables`.
        variables: List of variables; restored when the context ends.
    """
    # SWA makes its first snapshot in the step of this number.
    start = int(getattr(optimizer, "start_averaging", -1))
    keeps = hasattr(optimizer, "assign_average_vars")
    if not keeps or int(optimizer.iterations.numpy()) <= start:
        yield
        return
    targets = [tf_variable(variable) for variable in variables]
    trained = [target.numpy() for target in targets]
    for target in targets:
        target.assign(optimizer.get_slot(target, "average").numpy())
    try:
        yield
    finally:
        for target, value in zip(targets, trained):
            target.assign(value)


def _optimizers_of_addons(name):
    try:
        if IS_KERAS_3:
            raise ImportError("Keras 3")
        import tensorflow_addons as addons
    except ImportError as error:
        logging.debug("TensorFlow Addons: %s", error)
        raise ValueError(
            f"`--optimizer={PREFIX}{name}` needs TensorFlow Addons, which TensorFlow "
            "2.15.1 is the last to import. In a new environment of Python 3.9 to 3.11 "
            "run: pip install '.[addons]'"
        ) from None
    return _classes_in(addons.optimizers, keras.optimizers.legacy.Optimizer)


def _classes_in(module, base):
    """Returns the optimizers a module exports, by name."""
    return {
        name: kind
        for name, kind in vars(module).items()
        if inspect.isclass(kind)
        and issubclass(kind, base)
        and kind is not base
        and name not in _OTHERS
    }


def _wraps(kind):
    return "optimizer" in inspect.signature(kind).parameters


def _make(kind, schedule, hyperparameters):
    """Calls the class with those of our names that it has, in its own spelling."""
    momentum = hyperparameters["momentum"]
    values = {
        # Decay is `GradientUpdate`'s; SGDW and AdamW cannot be made without.
        "weight_decay": 0.0,
        "momentum": momentum,
        "beta_1": momentum,
        "beta1": momentum,
        "beta_2": hyperparameters["beta_2"],
        "beta2": hyperparameters["beta_2"],
        "epsilon": hyperparameters["epsilon"],
        "nesterov": hyperparameters["nesterov"] or None,
    }
    known = inspect.signature(kind).parameters
    if hyperparameters["nesterov"] and "nesterov" not in known:
        raise ValueError(f"`nesterov` applies to SGD only. Received: {kind.__name__}")
    given = {
        name: value
        for name, value in values.items()
        if name in known and value is not None
    }
    return kind(learning_rate=schedule, **given)
