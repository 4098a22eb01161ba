"""Optimizers by name, those of TensorFlow Addons too, and how each decays weights.

README.md beside this file says what a coefficient means. Keras decays its own way for
every optimizer, Addons' SGDW forgets the learning rate, and Addons' NovoGrad decays
inside the momentum: none of that is used. Lookahead and its like decay as what they
wrap.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from ekd_tf.checks import check_choice
from ekd_tf.checks import check_range
from ekd_tf.keras_compat import IS_KERAS_3
from ekd_tf.keras_compat import tf_variable

OPTIMIZERS = {
    "sgd": keras.optimizers.SGD,
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "lion": keras.optimizers.Lion,
}
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
DEFAULT_DECAY = 5e-4
DEFAULT_MOMENTUM = 0.9
_DECOUPLED = {"AdamW", "Lion", "SGDW", "RectifiedAdam", "AdaBelief", "NovoGrad"}


def make_optimizer(name: str, schedule: Any, momentum: float = DEFAULT_MOMENTUM) -> Any:
    """Builds an optimizer without decay and clipping, which `GradientUpdate` does.

    Keras keeps the learning rate inside the momentum (`m = mu m - lr g`), torch
    outside (`w -= lr m`): after a drop the old rate fades out over about `1 / (1 - mu)`
    steps here.

    Args:
        name: One of `OPTIMIZERS`, "addons/NAME" for one of TensorFlow Addons, or
            "addons/WRAPPER:NAME" for one of its wrappers around an optimizer of Addons
            or of `keras.optimizers.legacy`.
        schedule: Learning rate: a float or a `LearningRateSchedule`.
        momentum: Float in [0, 1): momentum of SGD, `beta_1` of the others.
    """
    check_range("momentum", momentum, low=0, high=1, high_open=True)
    if name.startswith(PREFIX):
        return _make_addons_optimizer(name[len(PREFIX) :], schedule, momentum)
    check_choice("optimizer", name, OPTIMIZERS)
    return _make(OPTIMIZERS[name], schedule, momentum)


def _make_addons_optimizer(name, schedule, momentum):
    """Builds an optimizer of Addons, or "WRAPPER:NAME"."""
    optimizers = _optimizers_of_addons(name)
    outer, *inner = name.split(":", 1)
    check_choice("optimizer", PREFIX + outer, [PREFIX + each for each in optimizers])
    if not _wraps(optimizers[outer]):
        if inner:
            raise ValueError(
                f"`optimizer` '{PREFIX}{outer}' wraps no other. Received: {name!r}"
            )
        return _make(optimizers[outer], schedule, momentum)
    choices = {**_optimizers_in(keras.optimizers.legacy), **optimizers}
    choices = {each: kind for each, kind in choices.items() if not _wraps(kind)}
    if not inner:
        raise ValueError(
            f"`optimizer` '{PREFIX}{outer}' wraps another: {PREFIX}{outer}:SGD. "
            f"It takes {', '.join(choices)}"
        )
    check_choice(f"optimizer inside {outer}", inner[0], choices)
    return optimizers[outer](_make(choices[inner[0]], schedule, momentum))


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
    return _optimizers_in(addons.optimizers)


def _optimizers_in(module):
    """Returns the legacy optimizers a module exports, by name."""
    base = keras.optimizers.legacy.Optimizer
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


def _make(kind, schedule, momentum):
    """Calls the class with those of our settings that it has, in its own spelling."""
    settings = dict.fromkeys(("momentum", "beta_1", "beta1"), momentum)
    # Decay is `GradientUpdate`'s; SGDW and the two AdamW cannot be made without.
    settings["weight_decay"] = 0.0
    known = inspect.signature(kind).parameters
    given = {name: value for name, value in settings.items() if name in known}
    if given.keys() <= {"weight_decay"} and momentum != DEFAULT_MOMENTUM:
        raise ValueError(
            f"`momentum` has no effect on {kind.__name__}, which has none. Leave it "
            f"out. Received: {momentum}"
        )
    optimizer = kind(learning_rate=schedule, **given)
    if isinstance(optimizer, keras.optimizers.Optimizer):
        # Left to `compile`.
        optimizer.weight_decay = None
    return optimizer


@contextlib.contextmanager
def averaged(optimizer: Any, variables: Iterable) -> Iterator[None]:
    """Lends variables the averages that SWA or MovingAverage keep of them.

    Other optimizers, and SWA before its first snapshot, leave them as they are.
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


def decay_kind(optimizer: Any) -> str:
    """Returns "coupled", "decoupled" or "lamb"."""
    # By name, so that TensorFlow Addons need not be there.
    names = {base.__name__ for base in type(_unwrapped(optimizer)).__mro__}
    if "LAMB" in names:
        return "lamb"
    return "decoupled" if names & _DECOUPLED else "coupled"


def chosen_decay(optimizer: Any, weight_decay: float | None) -> float:
    """Returns the coefficient: the caller's, or the optimizer's, or the default."""
    own = getattr(optimizer, "weight_decay", None)
    if isinstance(own, tf.Variable):
        own = float(own.numpy())
    if not own:
        # Those of Addons that cannot be made without have a 0 that nobody chose, and
        # those of Keras 2 that do not take a decay.
        parameter = inspect.signature(type(optimizer)).parameters.get("weight_decay")
        takes = parameter is not None and parameter.default != 0
        chosen = takes and isinstance(optimizer, keras.optimizers.Optimizer)
        default = 0.0 if own == 0 and chosen else DEFAULT_DECAY
        return default if weight_decay is None else weight_decay
    if not isinstance(optimizer, (keras.optimizers.AdamW, keras.optimizers.Lion)):
        raise ValueError(
            "`optimizer` must leave `weight_decay` to `compile`, unless it is AdamW or "
            "Lion of Keras: of others the decay is part of the gradient here, as in "
            f"torch. Received: {type(optimizer).__name__} with weight_decay={own}"
        )
    if weight_decay in (None, own):
        return own
    if own != inspect.signature(type(optimizer)).parameters["weight_decay"].default:
        raise ValueError(
            "`weight_decay` must be given once, to the optimizer or to `compile`. "
            f"Received: {own} and {weight_decay}"
        )
    return weight_decay


def _unwrapped(optimizer):
    """Returns the optimizer inside Lookahead and the like, or the one given."""
    return getattr(optimizer, "_optimizer", optimizer)


def set_lamb_decay(
    optimizer: Any, weight_decay: float, variables: Iterable, decays: Sequence[bool]
) -> None:
    """Gives LAMB its coefficient, and to those of `variables` that `decays` marks.

    The others neither decay nor have a trust ratio, as LAMB's authors do with biases.
    To be called before the optimizer is built.
    """
    lamb = _unwrapped(optimizer)
    names = [tf_variable(variable).name.split(":")[0] for variable in variables]
    excluded = {name for name, decay in zip(names, decays) if not decay}
    in_both = excluded & {name for name, decay in zip(names, decays) if decay}
    if in_both:
        raise ValueError(
            "LAMB tells variables apart by name, but some that decay are called as "
            f"some that do not: {', '.join(sorted(in_both))}"
        )
    patterns = [rf"^{re.escape(name)}(/replica_\d+)?(:0)?$" for name in excluded]
    lamb.weight_decay = weight_decay
    lamb.exclude_from_weight_decay = patterns
    lamb.exclude_from_layer_adaptation = patterns
