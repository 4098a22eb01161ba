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

import re

import tensorflow as tf

from ekd_tf.stack import tf_variable

_DECOUPLED = {"AdamW", "Lion", "SGDW", "RectifiedAdam", "AdaBelief", "NovoGrad"}


def decay_kind(optimizer) -> str:
    """Returns "coupled", "decoupled" or "lamb"; see the table above."""
    # By name, so that TensorFlow Addons need not be there to be told apart.
    names = {base.__name__ for base in type(unwrapped(optimizer)).__mro__}
    if "LAMB" in names:
        return "lamb"
    return "decoupled" if names & _DECOUPLED else "coupled"


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
