"""What `--weight_decay` means to each optimizer: one rule, written in one place.

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

import inspect
import re

import keras
import tensorflow as tf

from ekd_tf.keras_compat import tf_variable

DEFAULT = 5e-4
_DECOUPLED = {"AdamW", "Lion", "SGDW", "RectifiedAdam", "AdaBelief", "NovoGrad"}


def decay_kind(optimizer) -> str:
    """Returns "coupled", "decoupled" or "lamb"; see the table above."""
    # By name, so that TensorFlow Addons need not be there to be told apart.
    names = {base.__name__ for base in type(unwrapped(optimizer)).__mro__}
    if "LAMB" in names:
        return "lamb"
    return "decoupled" if names & _DECOUPLED else "coupled"


def chosen_decay(optimizer, weight_decay: float | None) -> float:
    """Returns the coefficient, which the optimizer or the caller has given.

    AdamW has 0.004 where nobody gave one: it holds where the caller gives none either.

    Args:
        optimizer: Keras optimizer.
        weight_decay: Float, or None: not given.

    Raises:
        ValueError: The optimizer has one that somebody gave it, and so has the
            caller; or it is of a kind whose own decay is not carried out.
    """
    own = getattr(optimizer, "weight_decay", None)
    if isinstance(own, tf.Variable):
        own = float(own.numpy())
    if not own:
        return DEFAULT if weight_decay is None else weight_decay
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
    """Makes every variable smaller by `factor` times itself, on all replicas.

    Args:
        strategy: The strategy whose cross-replica context this is called in.
        variables: Float variables.
        factor: Float32 scalar tensor, dimensionless.
    """
    for variable in variables:
        strategy.extended.update(
            tf_variable(variable),
            lambda v, f: v.assign_sub(tf.cast(f, v.dtype) * v),
            args=(factor,),
            group=False,
        )


def set_lamb_decay(optimizer, weight_decay: float, variables, decays) -> None:
    """Gives LAMB its coefficient; the others neither decay nor have a trust ratio.

    Leaving vectors out of both is what LAMB's authors do with biases and layer norms.

    Args:
        optimizer: LAMB of TensorFlow Addons, not built yet, or what wraps it.
        weight_decay: Float >= 0.
        variables: All variables that are updated.
        decays: One bool for each: whether it decays.

    Raises:
        ValueError: If a variable that decays has the name of one that does not. LAMB
            tells them apart by name.
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
