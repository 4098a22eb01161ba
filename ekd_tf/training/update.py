"""One optimizer step: sum over replicas, un-scale, check, decay, clip, apply."""

from __future__ import annotations

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
from ekd_tf.training.optimizers import shrink

LOSS_SCALINGS = ("none", "dynamic")

# Below one a scale would only shrink gradients that overflow unscaled as well.
MIN_LOSS_SCALE = 1.0

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

    In this order, in float32:

    1. gradients are summed over replicas: each replica differentiates its part of
       the global batch's loss, already divided so that the sum is the gradient;
    2. divided by the loss scale and tested: if any entry is NaN or infinite, the
       whole step is skipped on all replicas;
    3. all are scaled by $\min(1, \text{clip\_norm} / \lVert g \rVert)$;
    4. `decay_variables` decay, after clipping. SGD and Adam: `weight_decay * w` is
       added to the gradient, as torch does it, so momentum acts on the decay too.
       Optimizers of decoupled decay: `w -= learning_rate * weight_decay * w`. LAMB:
       before its trust ratio. `ekd_tf.training.optimizers` lists which is which;
    5. the optimizer applies them.

    A skipped step leaves variables, the optimizer's slots and
    `optimizer.iterations` as they were; hence learning rates are a function of the
    updates made, not of the batches seen. With dynamic scaling it halves the scale
    (never below 1); `growth_steps` good steps in a row double it.

    Create it under the strategy's scope. `scale_loss` and `apply` belong in a
    replica context (`strategy.run`, or no strategy at all), eager or in a
    `tf.function`.

    Args:
        optimizer: Keras optimizer with no clipping, averaging, accumulation or loss
            scale of its own, and with a weight decay of its own only if that is
            decoupled. Built here if it is not yet.
        variables: Trainable variables, without repetition.
        weight_decay: Float >= 0: coefficient of the decay, as in torch. None: that of
            an optimizer of decoupled decay which has one, else 5e-4.
        decay_variables: The members of `variables` that decay. None: no member.
        clip_norm: Float > 0: largest global norm, or None for no clipping.
        loss_scaling: "none" or "dynamic".
        initial_scale: Float >= 1: first loss scale under "dynamic".
        growth_steps: Integer > 0: good steps in a row before the scale doubles.
        sampled_variables: The members of `variables` of which a `tf.IndexedSlices`
            names each row once, and the same rows on all replicas. Under SGD every
            stage above is then one of these rows, and the others, their momentum and
            decay wait until they are sampled again: a step costs what its sample
            does. That is the choice of Partial FC (An et al., 2022, arXiv:2203.15565;
            insightface `partial_fc.py`); a dense update would let every row drift on
            with old momentum and decay. Any other optimizer, and any other variable,
            has sparse gradients made dense. None: no member.

    State:
        loss_scale: Float32 scalar, 1 under "none".
        good_steps: Int64 scalar: good steps since the scale last changed or a step
            was skipped.
        skipped_steps: Int64 scalar: steps skipped in the whole run.

    Raises:
        ValueError: On an argument outside its range, a decay variable that is not
            among `variables`, or an optimizer that decays or clips by itself.
    """

    def __init__(
        self,
        optimizer,
        variables,
        weight_decay: float | None = None,
        decay_variables=None,
        clip_norm: float | None = None,
        loss_scaling: str = "none",
        initial_scale: float = 2.0**15,
        growth_steps: int = 2000,
        sampled_variables=None,
    ):
        weight_decay = chosen_decay(optimizer, weight_decay)
        check_range("weight_decay", weight_decay, low=0)
        if clip_norm is not None:
            check_positive("clip_norm", clip_norm)
        check_choice("loss_scaling", loss_scaling, LOSS_SCALINGS)
        check_range("initial_scale", initial_scale, low=MIN_LOSS_SCALE)
        check_positive("growth_steps", growth_steps)
        _check_plain(optimizer)
        self.optimizer = optimizer
        self.variables = list(variables)
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.loss_scaling = loss_scaling
        self.growth_steps = growth_steps
        self._decays = _membership(
            "decay_variables", decay_variables or [], self.variables
        )
        self._sampled = _membership(
            "sampled_variables", sampled_variables or [], self.variables
        )
        if not _updates_rows(optimizer):
            self._sampled = [False] * len(self.variables)
        self._decay_kind = decay_kind(optimizer)
        if self._decay_kind == "lamb":
            set_lamb_decay(optimizer, weight_decay, self.variables, self._decays)
        build_optimizer(optimizer, self.variables)
        scale = initial_scale if loss_scaling == "dynamic" else 1.0
        self._scale = _state("loss_scale", scale, tf.float32)
        self._good_steps = _state("good_steps", 0, tf.int64)
        self._skipped_steps = _state("skipped_steps", 0, tf.int64)

    @property
    def state(self) -> dict[str, tf.Variable]:
        """The variables to checkpoint beside the optimizer's own, by name."""
        return {
            "loss_scale": self._scale,
            "good_steps": self._good_steps,
            "skipped_steps": self._skipped_steps,
        }

    def scale_loss(self, loss):
        """Returns the loss to differentiate, float32: `loss * loss_scale`."""
        return tf.cast(loss, tf.float32) * self._scale

    def apply(self, gradients, loss=0.0) -> dict[str, tf.Tensor]:
        """Makes the step, or skips it.

        Args:
            gradients: List of this replica's gradients of the scaled loss, in the
                order of `variables`, of any float dtype, dense or sparse.
            loss: Float scalar, the global batch's loss, equal on all replicas. The
                step is skipped, too, where it is not finite.

        Returns:
            Float32 scalars, equal on all replicas: `gradient_norm`: global norm
            before clipping and decay, not finite if the step was skipped;
            `loss_scale`: the scale this step was made with; `skipped_steps`: the
            run's count, this step included.

        Raises:
            ValueError: If a gradient is None, or their number is wrong.
            RuntimeError: If called in a cross-replica context.
        """
        replica = tf.distribute.get_replica_context()
        if replica is None:
            raise RuntimeError("`apply` must run in a replica context: strategy.run.")
        self._check_gradients(gradients)
        # Float16 sums overflow from 65,504 on, so the cast comes before the sum.
        gradients, rows = _split_rows(gradients, self._sampled)
        gradients = [tf.cast(gradient, tf.float32) for gradient in gradients]
        gradients = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        scale = tf.convert_to_tensor(self._scale)
        if self.loss_scaling == "dynamic":
            gradients = [gradient / scale for gradient in gradients]
        finite = tf.reduce_all(
            [tf.reduce_all(tf.math.is_finite(x)) for x in (loss, *gradients)]
        )
        norm = tf.linalg.global_norm(gradients)
        if self.clip_norm is not None:
            factor = self.clip_norm / tf.maximum(norm, self.clip_norm)
            gradients = [gradient * factor for gradient in gradients]
        if self._decay_kind == "coupled":
            gradients = self._decayed(gradients, rows)
        skipped = replica.merge_call(self._apply_if, args=(finite, gradients, rows))
        return {
            "gradient_norm": tf.where(finite, norm, float("nan")),
            "loss_scale": scale,
            "skipped_steps": skipped,
        }

    def _decayed(self, gradients, rows):
        decayed = list(gradients)
        for position, variable in enumerate(map(tf_variable, self.variables)):
            if self._decays[position] and self.weight_decay:
                weights = variable
                if position in rows:
                    weights = own_rows(variable, rows[position])
                weights = tf.cast(weights, tf.float32)
                decayed[position] += self.weight_decay * weights
        return decayed

    def _apply_if(self, strategy, finite, gradients, rows):
        """Runs in the cross-replica context: returns the count of skipped steps."""
        # All replicas hold the same sum, hence the same answer.
        finite = strategy.experimental_local_results(finite)[0]

        # The branch stands here because the optimizer merges replicas itself, which
        # is not possible in a branch taken within a replica.
        def make_step():
            if self._decay_kind == "decoupled" and self.weight_decay:
                decaying = [v for v, d in zip(self.variables, self._decays) if d]
                rate = current_learning_rate(self.optimizer)
                shrink(strategy, decaying, rate * self.weight_decay)
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

        tf.cond(finite, make_step, lambda: False)
        good = tf.where(finite, self._good_steps.read_value() + 1, 0)
        if self.loss_scaling == "dynamic":
            scale = self._scale.read_value()
            grows = good >= self.growth_steps
            shrunk = tf.maximum(scale * 0.5, MIN_LOSS_SCALE)
            grown = tf.where(grows, scale * 2.0, scale)
            self._scale.assign(tf.where(finite, grown, shrunk))
            good = tf.where(grows, tf.zeros_like(good), good)
        self._good_steps.assign(good)
        skipped = self._skipped_steps.read_value() + tf.cast(~finite, tf.int64)
        self._skipped_steps.assign(skipped)
        return tf.cast(skipped, tf.float32)

    @tf.autograph.experimental.do_not_convert
    def _apply_in_replica(self, gradients, rows):
        dense = [i for i in range(len(gradients)) if i not in rows]
        variables = [self.variables[i] for i in dense]
        gradients = [
            tf.cast(gradients[i], tf_variable(variable).dtype)
            for i, variable in zip(dense, variables)
        ]
        apply_reduced_gradients(self.optimizer, gradients, variables)

    def _check_gradients(self, gradients):
        if len(gradients) != len(self.variables):
            raise ValueError(
                f"`gradients` must be one per variable ({len(self.variables)}). "
                f"Received: {len(gradients)}"
            )
        names = [v.name for g, v in zip(gradients, self.variables) if g is None]
        if names:
            raise ValueError(
                "Every variable must have a gradient. The loss does not depend on: "
                + ", ".join(names)
            )


def restore_unless(finite: tf.Tensor, variables: list, values: list) -> None:
    """Gives variables their old values back where a step is not finite.

    BatchNorm's averages and the losses' thresholds move in the forward pass, before
    anyone knows whether the step is good: one NaN would stay in them for good. Called
    in a replica context.

    Args:
        finite: Bool scalar, equal on all replicas.
        variables: `tf.Variable`s that are not trained.
        values: Their values before the forward pass, in the same order.
    """

    def assign(values):
        for variable, value in zip(variables, values):
            variable.assign(value)

    # In the cross-replica context, because assigning may itself merge replicas, which
    # is not possible in a branch taken within one.
    def restore_if_bad(strategy, finite, values):
        def restore():
            strategy.run(assign, args=(values,))
            return True

        finite = strategy.experimental_local_results(finite)[0]
        tf.cond(finite, lambda: False, restore)

    tf.distribute.get_replica_context().merge_call(
        restore_if_bad, args=(finite, values)
    )


def _state(name, value, dtype):
    return tf.Variable(
        value,
        trainable=False,
        dtype=dtype,
        name=name,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )


def _membership(argument, chosen, variables):
    """Returns one bool per variable: whether it is among `chosen`."""
    keys = [tf_variable(variable).ref() for variable in variables]
    if len(set(keys)) < len(keys):
        raise ValueError("`variables` must not contain a variable twice.")
    unknown = [v.name for v in chosen if tf_variable(v).ref() not in keys]
    if unknown:
        raise ValueError(
            f"`{argument}` must be among `variables`. Received besides: "
            + ", ".join(unknown)
        )
    chosen = {tf_variable(variable).ref() for variable in chosen}
    return [key in chosen for key in keys]


def _check_plain(optimizer):
    for name in _OWN_SETTINGS:
        value = getattr(optimizer, name, None)
        if isinstance(value, tf.Variable):
            value = float(value.numpy())
        if value:
            raise ValueError(
                f"`optimizer` must leave `{name}` to GradientUpdate or unset. "
                f"Received: {name}={value}"
            )


def _updates_rows(optimizer) -> bool:
    """Whether the optimizer is one `_update_rows` knows."""
    return type(optimizer) is keras.optimizers.SGD


def _split_rows(gradients: list, sampled: list[bool]) -> tuple[list, dict]:
    """Returns gradients as tensors, and by position the rows of sampled ones."""
    tensors, rows = [], {}
    for position, (gradient, is_sampled) in enumerate(zip(gradients, sampled)):
        if is_sampled and isinstance(gradient, tf.IndexedSlices):
            rows[position] = gradient.indices
            gradient = gradient.values
        tensors.append(tf.convert_to_tensor(gradient))
    return tensors, rows


def _update_rows(strategy, optimizer, variable, gradient, rows) -> None:
    """Makes an SGD step on some rows of a variable and its momentum, uncounted."""
    rate = current_learning_rate(optimizer)
    momentum = sgd_momentum(optimizer, variable)
    slots = () if momentum is None else (momentum,)

    def update(target, gradient, rows, rate, *slots):
        gradient = tf.cast(gradient, target.dtype)
        change = -tf.cast(rate, target.dtype) * gradient
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
