"""One optimizer step: sum over replicas, un-scale, check, clip, decay, apply."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from ekd_tf.checks import check_choice
from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range
from ekd_tf.keras_compat import apply_reduced_gradients
from ekd_tf.keras_compat import build_optimizer
from ekd_tf.keras_compat import current_learning_rate
from ekd_tf.keras_compat import sgd_momentum
from ekd_tf.keras_compat import tf_variable
from ekd_tf.ops.collective import own_rows
from ekd_tf.training.optimizers import chosen_decay
from ekd_tf.training.optimizers import decay_kind
from ekd_tf.training.optimizers import set_lamb_decay

# Below one a scale would only shrink gradients that overflow unscaled as well.
MIN_LOSS_SCALE = 1.0
# Infinity, once reached, would never halve.
_MAX_LOSS_SCALE = 2.0**64

# What an optimizer would do a second time, or where it would skip what is done here.
_OWN_SETTINGS = (
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "use_ema",
    "loss_scale_factor",
    "gradient_accumulation_steps",
)


class GradientUpdate:
    r"""Turns the gradients of every replica into one update of the variables.

    In this order, in float32: gradients are

    1. summed over replicas, each of which differentiates its part of the loss;
    2. divided by the loss scale and tested: if their norm is not finite, the whole
       step is skipped on all replicas;
    3. scaled by $\min(1, \text{clip\_norm} / \lVert g \rVert)$;
    4. joined by the decay, on which momentum acts too where it is coupled;
    5. applied by the optimizer.

    A skipped step leaves variables, slots and `optimizer.iterations` as they were, so
    learning rates count updates, not batches. With dynamic scaling it halves the scale
    (never below 1); `growth_steps` good steps in a row double it.

    Create it under the strategy's scope; use it in a replica context.

    `state` are the variables to checkpoint beside the optimizer's own, by name:
    loss_scale, a float32 scalar, and two of int64: good_steps, since the scale last
    changed or a step was skipped, and skipped_steps, of the whole run.

    Args:
        optimizer: Keras optimizer with no clipping, averaging, accumulation or loss
            scale of its own. Built here if it is not yet.
        variables: Trainable variables, without repetition.
        weight_decay: Float >= 0, or None; see `chosen_decay`.
        decay_variables: The members of `variables` that decay.
        clip_norm: Float > 0: largest global norm, or None for no clipping.
        loss_scaling: "none" or "dynamic".
        initial_scale: Float >= 1: first loss scale under "dynamic".
        growth_steps: Integer > 0: good steps in a row before the scale doubles.
        sampled_variables: The members of `variables` of which a `tf.IndexedSlices`
            names each row once, and the same rows on all replicas. Under SGD the other
            rows, their momentum and decay wait until they are sampled again, as in
            Partial FC (An et al., 2022, arXiv:2203.15565; insightface
            `partial_fc.py`). All other sparse gradients are made dense.
    """

    def __init__(
        self,
        optimizer: Any,
        variables: Iterable,
        weight_decay: float | None = None,
        decay_variables: Iterable = (),
        clip_norm: float | None = None,
        loss_scaling: str = "none",
        initial_scale: float = 2.0**15,
        growth_steps: int = 2000,
        sampled_variables: Iterable = (),
    ):
        weight_decay = chosen_decay(optimizer, weight_decay)
        check_range("weight_decay", weight_decay, low=0)
        if clip_norm is not None:
            check_positive("clip_norm", clip_norm)
        check_choice("loss_scaling", loss_scaling, ("none", "dynamic"))
        check_range("initial_scale", initial_scale, low=MIN_LOSS_SCALE)
        check_range("growth_steps", growth_steps, low=1)
        _check_plain(optimizer)
        self.optimizer = optimizer
        self.variables = list(variables)
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.loss_scaling = loss_scaling
        self.growth_steps = growth_steps
        self._decays = self._are_among(decay_variables)
        self._sampled = self._are_among(sampled_variables)
        # The only optimizer `_update_rows` knows.
        if type(optimizer) is not keras.optimizers.SGD:
            self._sampled = [False] * len(self.variables)
        self._decay_kind = decay_kind(optimizer)
        if self._decay_kind == "lamb":
            set_lamb_decay(optimizer, weight_decay, self.variables, self._decays)
        build_optimizer(optimizer, self.variables)
        scale = initial_scale if loss_scaling == "dynamic" else 1.0
        self.state = {
            name: tf.Variable(
                value,
                trainable=False,
                dtype=dtype,
                name=name,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )
            for name, value, dtype in (
                ("loss_scale", scale, tf.float32),
                ("good_steps", 0, tf.int64),
                ("skipped_steps", 0, tf.int64),
            )
        }

    def scale_loss(self, loss: tf.Tensor) -> tf.Tensor:
        """Returns a loss to differentiate, or its weight, times the loss scale."""
        return tf.cast(loss, tf.float32) * self.state["loss_scale"]

    def apply(
        self,
        gradients: Sequence,
        loss: tf.Tensor | float = 0.0,
        moved: Sequence[tf.Variable] = (),
        before: Sequence[tf.Tensor] = (),
    ) -> dict[str, tf.Tensor]:
        """Makes the step, or skips it.

        Args:
            gradients: This replica's gradients of the scaled loss, in the order of
                `variables`, of any float dtype, dense or sparse.
            loss: Float scalar, the global batch's loss. The step is skipped, too, where
                it is not finite.
            moved: Variables that moved in the forward pass: BatchNorm's averages, the
                losses' thresholds.
            before: Their values before that, given back to them by a skipped step.

        Returns:
            Float32 scalars, equal on all replicas: `gradient_norm` before clipping and
            decay, NaN if and only if the step was skipped; `loss_scale` of this step;
            `skipped_steps` so far.
        """
        replica = tf.distribute.get_replica_context()
        if replica is None:
            raise RuntimeError("`apply` must run in a replica context: strategy.run.")
        names = [v.name for g, v in zip(gradients, self.variables) if g is None]
        if names:
            raise ValueError(
                "Every variable must have a gradient. The loss does not depend on: "
                + ", ".join(names)
            )
        gradients, rows = _split_rows(gradients, self._sampled)
        # Float16 sums overflow from 65,504 on, so the cast comes before the sum.
        gradients = [tf.cast(gradient, tf.float32) for gradient in gradients]
        gradients = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        scale = tf.convert_to_tensor(self.state["loss_scale"])
        if self.loss_scaling == "dynamic":
            gradients = [gradient / scale for gradient in gradients]
        # Not finite where an entry is not, and where its square overflows.
        norm = tf.linalg.global_norm(gradients)
        finite = tf.math.is_finite(norm) & tf.reduce_all(tf.math.is_finite(loss))
        if self.clip_norm is not None:
            factor = self.clip_norm / tf.maximum(norm, self.clip_norm)
            gradients = [gradient * factor for gradient in gradients]
        if self._decay_kind == "coupled" and self.weight_decay:
            gradients = self._decayed(gradients, rows)

        def merge(strategy, *values):
            return self._apply_if(strategy, moved, *values)

        skipped = replica.merge_call(
            merge, args=(finite, gradients, rows, list(before))
        )
        return {
            "gradient_norm": tf.where(finite, norm, float("nan")),
            "loss_scale": scale,
            "skipped_steps": skipped,
        }

    def _are_among(self, chosen):
        """Returns one bool per variable: whether it is among those chosen."""
        chosen = {tf_variable(variable).ref() for variable in chosen}
        return [tf_variable(variable).ref() in chosen for variable in self.variables]

    def _decayed(self, gradients, rows):
        decayed = list(gradients)
        for position, variable in enumerate(self.variables):
            if self._decays[position]:
                weights = tf_variable(variable)
                if position in rows:
                    weights = own_rows(weights, rows[position])
                decayed[position] += self.weight_decay * tf.cast(weights, tf.float32)
        return decayed

    def _apply_if(self, strategy, moved, finite, gradients, rows, before):
        """Runs in the cross-replica context: returns the count of skipped steps."""
        # All replicas have the same answer.
        finite = strategy.experimental_local_results(finite)[0]

        # The branches stand here because the optimizer, and assigning to a mean over
        # replicas, merge replicas themselves, which is not possible in a branch taken
        # within a replica.
        def make_step():
            if self._decay_kind == "decoupled" and self.weight_decay:
                self._shrink(strategy)
            for position in rows:
                _update_rows(
                    strategy,
                    self.optimizer,
                    self.variables[position],
                    gradients[position],
                    rows[position],
                )
            strategy.run(self._apply_in_replica, args=(gradients, rows))
            return True

        def assign(values):
            for variable, value in zip(moved, values):
                variable.assign(value)

        def restore():
            strategy.run(assign, args=(before,))
            return False

        tf.cond(finite, make_step, restore)
        good = tf.where(finite, self.state["good_steps"].read_value() + 1, 0)
        if self.loss_scaling == "dynamic":
            scale = self.state["loss_scale"].read_value()
            grows = good >= self.growth_steps
            shrunk = tf.maximum(scale * 0.5, MIN_LOSS_SCALE)
            doubled = tf.minimum(scale * 2.0, _MAX_LOSS_SCALE)
            grown = tf.where(grows, doubled, scale)
            self.state["loss_scale"].assign(tf.where(finite, grown, shrunk))
            good = tf.where(grows, tf.zeros_like(good), good)
        self.state["good_steps"].assign(good)
        skipped = self.state["skipped_steps"].read_value() + tf.cast(~finite, tf.int64)
        self.state["skipped_steps"].assign(skipped)
        return tf.cast(skipped, tf.float32)

    def _shrink(self, strategy):
        """Makes what decays smaller by rate times coefficient times itself."""
        factor = current_learning_rate(self.optimizer) * self.weight_decay
        for variable, decays in zip(self.variables, self._decays):
            if decays:
                strategy.extended.update(
                    tf_variable(variable),
                    lambda v, f: v.assign_sub(tf.cast(f, v.dtype) * v),
                    args=(factor,),
                    group=False,
                )

    @tf.autograph.experimental.do_not_convert
    def _apply_in_replica(self, gradients, rows):
        dense = [i for i in range(len(gradients)) if i not in rows]
        variables = [self.variables[i] for i in dense]
        gradients = [
            tf.cast(gradients[i], tf_variable(variable).dtype)
            for i, variable in zip(dense, variables)
        ]
        apply_reduced_gradients(self.optimizer, gradients, variables)


def _check_plain(optimizer):
    kinds = [base.__name__ for base in type(optimizer).__mro__]
    if any(kind.startswith("LossScaleOptimizer") for kind in kinds):
        raise ValueError(
            "`optimizer` must leave the loss scale to GradientUpdate: give the one "
            'inside, and `loss_scaling="dynamic"`. Received: a LossScaleOptimizer'
        )
    for name in _OWN_SETTINGS:
        value = getattr(optimizer, name, None)
        if isinstance(value, tf.Variable):
            value = float(value.numpy())
        if value:
            raise ValueError(
                f"`optimizer` must leave `{name}` to GradientUpdate or unset. "
                f"Received: {name}={value}"
            )


def _split_rows(gradients, sampled):
    """Returns gradients as tensors, and by position the rows of sampled ones."""
    tensors, rows = [], {}
    for position, (gradient, is_sampled) in enumerate(zip(gradients, sampled)):
        if is_sampled and isinstance(gradient, tf.IndexedSlices):
            rows[position] = gradient.indices
            gradient = gradient.values
        tensors.append(tf.convert_to_tensor(gradient))
    return tensors, rows


def _update_rows(strategy, optimizer, variable, gradient, rows):
    """Makes an SGD step on some rows of a variable and its momentum, uncounted."""
    rate = current_learning_rate(optimizer)
    momentum = sgd_momentum(optimizer, variable)
    slots = () if momentum is None else (momentum,)

    def update(target, gradient, rows, rate, *slots):
        change = -tf.cast(rate, target.dtype) * tf.cast(gradient, target.dtype)
        for slot in slots:
            moved = optimizer.momentum * tf.gather(slot, rows) + change
            slot.scatter_update(tf.IndexedSlices(moved, rows))
            if optimizer.nesterov:
                change += optimizer.momentum * moved
            else:
                change = moved
        target.scatter_add(tf.IndexedSlices(change, rows))

    strategy.extended.update(
        tf_variable(variable), update, args=(gradient, rows, rate, *slots), group=False
    )
