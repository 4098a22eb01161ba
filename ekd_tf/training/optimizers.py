"""Optimizers by name, those of TensorFlow Addons too, and what weight decay means.

| optimizer | a weight w with coefficient d at learning rate r |
| --- | --- |
| SGD, Adam and all others | d w is added to the gradient, as torch does |
| AdamW, Lion, SGDW, RectifiedAdam, AdaBelief, NovoGrad | w -= r d w, then the update |
| LAMB | d w is added to the update before the trust ratio, as its paper does |

Keras keeps the second kind for every optimizer, Addons' SGDW forgets the r, and
Addons' NovoGrad decays inside the momentum: none of that is used. A wrapper
(Lookahead) decays as what it wraps.
"""

from __future__ import annotations

import contextlib
import inspect
import re

import keras
import tensorflow as tf
from absl import logging

from ekd_tf.checks import check_choice
from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range
from ekd_tf.keras_compat import IS_KERAS_3
from ekd_tf.keras_compat import tf_variable

OPTIMIZERS = ("sgd", "adam", "adamw", "lion")
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
_DECOUPLED = {"AdamW", "Lion", "SGDW", "RectifiedAdam", "AdaBelief", "NovoGrad"}


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
        name: One of `OPTIMIZERS`, "addons/NAME" for one of TensorFlow Addons, or
            "addons/WRAPPER:NAME" for one of its wrappers around an optimizer of Addons
            or of `keras.optimizers.legacy`.
        schedule: Learning rate: a float or a `LearningRateSchedule`.
        momentum: Float in [0, 1): momentum of SGD, `beta_1` of the others. Lion
            wants it above 0.
        nesterov: Whether SGD looks ahead; refused for the others.
        beta_2: Float in [0, 1): decay of Adam's second moment; None: its default.
        epsilon: Float > 0: added to the root of that moment; None: its default.

    Raises:
        ValueError: An unknown name, a value out of range, or TensorFlow Addons is asked
            for and not there (with the command that installs it).
    """
    check_range("momentum", momentum, low=0, high=1, high_open=True)
    if nesterov and momentum == 0:
        raise ValueError("`nesterov` needs `momentum` > 0. Received: momentum=0")
    if beta_2 is not None:
        check_range("beta_2", beta_2, low=0, high=1, high_open=True)
    if epsilon is not None:
        check_positive("epsilon", epsilon)
    if name.startswith(PREFIX):
        return _make_addons_optimizer(
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


def _make_addons_optimizer(name: str, schedule, **hyperparameters):
    """Builds an optimizer of Addons, or "WRAPPER:NAME", without decay and clipping."""
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


@contextlib.contextmanager
def averaged(optimizer, variables):
    """Lends variables the averages that SWA or MovingAverage keep of them.

    Other optimizers, and SWA before its first snapshot, leave them as they are, and so
    do all of them with the moving statistics of BatchNorm.
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


def decay_kind(optimizer) -> str:
    """Returns "coupled", "decoupled" or "lamb"; see the table above."""
    # By name, so that TensorFlow Addons need not be there.
    names = {base.__name__ for base in type(unwrapped(optimizer)).__mro__}
    if "LAMB" in names:
        return "lamb"
    return "decoupled" if names & _DECOUPLED else "coupled"


def chosen_decay(optimizer, weight_decay: float | None) -> float:
    """Returns the coefficient: the caller's, or the optimizer's, or the default.

    Raises:
        ValueError: The optimizer was given one, and so is this function; or the
            optimizer is of a kind whose own decay is not carried out.
    """
    own = getattr(optimizer, "weight_decay", None)
    if isinstance(own, tf.Variable):
        own = float(own.numpy())
    if not own:
        return DEFAULT_DECAY if weight_decay is None else weight_decay
    if not isinstance(optimizer, (keras.optimizers.AdamW, keras.optimizers.Lion)):
        raise ValueError(
            "`optimizer` must leave `weight_decay` to `compile`, unless it is AdamW or "
            "Lion of Keras: of others the decay is part of the gradient here, as in "
            f"torch. Received: {type(optimizer).__name__} with weight_decay={own}"
        )
    default = inspect.signature(type(optimizer)).parameters.get("weight_decay")
    if weight_decay in (None, own):
        return own
    if default is None or own != default.default:
        raise ValueError(
            "`weight_decay` must be given once, to the optimizer or to `compile`. "
            f"Received: {own} and {weight_decay}"
        )
    return weight_decay


def unwrapped(optimizer):
    """Returns the optimizer inside Lookahead and the like, or the one given."""
    return getattr(optimizer, "_optimizer", optimizer)


def shrink(strategy, variables, factor) -> None:
    """Makes every variable smaller by `factor` times itself, on all replicas."""
    for variable in variables:
        strategy.extended.update(
            tf_variable(variable),
            lambda v, f: v.assign_sub(tf.cast(f, v.dtype) * v),
            args=(factor,),
            group=False,
        )


def set_lamb_decay(optimizer, weight_decay: float, variables, decays) -> None:
    """Gives LAMB its coefficient, and to those of `variables` that `decays` marks.

    The others neither decay nor have a trust ratio, as LAMB's authors do with biases.
    To be called before the optimizer is built.

    Raises:
        ValueError: LAMB tells variables apart by name, and two share one.
    """
    lamb = unwrapped(optimizer)
    names = [tf_variable(variable).name.split(":")[0] for variable in variables]
    excluded = {name for name, decay in zip(names, decays) if not decay}
    shared = excluded & {name for name, decay in zip(names, decays) if decay}
    if shared:
        raise ValueError(
            "LAMB tells variables apart by name, but some that decay share one with "
            f"some that do not: {', '.join(sorted(shared))}"
        )
    patterns = [rf"^{re.escape(name)}(/replica_\d+)?(:0)?$" for name in excluded]
    lamb.weight_decay = weight_decay
    lamb.exclude_from_weight_decay = patterns
    lamb.exclude_from_layer_adaptation = patterns
