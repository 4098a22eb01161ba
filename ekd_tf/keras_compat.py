"""What differs between Keras 2.15 and Keras 3."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

IS_KERAS_3 = int(keras.__version__.split(".")[0]) >= 3

# Decorator that makes a class of this package known to `.keras` files.
register = keras.saving.register_keras_serializable(package="ekd_tf")


def add_state(
    layer: keras.layers.Layer,
    name: str,
    shape: tuple = (),
    initializer: Any = "zeros",
    dtype: str = "float32",
) -> tf.Variable:
    """Adds to a layer a variable that no gradient changes, and returns it.

    For what every replica computes alike. `initializer` may be a number for every
    entry.
    """
    if isinstance(initializer, (int, float)):
        initializer = keras.initializers.Constant(initializer)
    only_first = tf.VariableAggregation.ONLY_FIRST_REPLICA
    return layer.add_weight(
        name=name,
        shape=shape,
        dtype=dtype,
        initializer=initializer,
        trainable=False,
        aggregation="only_first_replica" if IS_KERAS_3 else only_first,
    )


def keras_compile(compile_model: Callable, **kwargs: Any) -> None:
    """Calls `keras.Model.compile` without the loss scaling and XLA of Keras 3."""
    if IS_KERAS_3:
        kwargs.setdefault("auto_scale_loss", False)
    kwargs.setdefault("jit_compile", False)
    compile_model(**kwargs)


# Their whole arithmetic is in the public `update_step`. Others (Nadam) do part of
# it in private hooks, so only `apply` is right for them.
_WHOLE_IN_UPDATE_STEP = (
    keras.optimizers.SGD,
    keras.optimizers.Adam,
    keras.optimizers.AdamW,
    keras.optimizers.Lion,
)


def tf_variable(variable: Any) -> tf.Variable:
    """Returns the `tf.Variable`, distributed or not, behind a Keras variable."""
    return variable if isinstance(variable, tf.Variable) else variable.value


def _is_legacy(optimizer):
    """Whether this is a Keras 2 optimizer of the old kind; all of Addons are."""
    return not IS_KERAS_3 and isinstance(optimizer, keras.optimizers.legacy.Optimizer)


def build_optimizer(optimizer: Any, variables: list) -> None:
    """Makes the optimizer's state for `variables`, unless it has it already."""
    if _is_legacy(optimizer):
        # They have no public way; doing it in the first step is too late to restore.
        optimizer._create_all_weights(variables)
    elif not getattr(optimizer, "built", False):
        optimizer.build(variables)


def optimizer_variables(optimizer: Any) -> list:
    """Returns the optimizer's state, that of an optimizer it wraps included."""
    return optimizer.weights if _is_legacy(optimizer) else optimizer.variables


def current_learning_rate(optimizer: Any) -> tf.Tensor:
    """Returns the rate of the coming update, a float32 scalar."""
    rate = optimizer.learning_rate
    if not IS_KERAS_3 and not _is_legacy(optimizer):
        # Keras 2's property is the rate of the update before.
        rate = optimizer._learning_rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        rate = rate(optimizer.iterations)
    return tf.cast(rate, tf.float32)


def sgd_momentum(optimizer: Any, variable: Any) -> tf.Variable | None:
    """Returns the `tf.Variable` of a variable's momentum in SGD, or None."""
    if not optimizer.momentum:
        return None
    # Neither version has a public way from a variable to its slots.
    if IS_KERAS_3:
        index = optimizer._get_variable_index(variable)
    else:
        index = optimizer._index_dict[optimizer._var_key(variable)]
    return tf_variable(optimizer.momentums[index])


def apply_reduced_gradients(optimizer: Any, gradients: list, variables: list) -> None:
    """Applies gradients that are already summed over replicas, in a replica context.

    Keras 3 always sums once more in `apply`: with several replicas, SGD, Adam, AdamW
    and Lion therefore go through their `update_step`. Any other optimizer, and any on
    variables with constraints, receives `gradient / replicas`, which costs a second
    all-reduce (half of the step again on two CPU replicas) and some rounding.

    The optimizer's own weight decay is not carried out. It must not be set to clip,
    accumulate or average. Without variables the step is counted all the same.
    """
    replica = tf.distribute.get_replica_context()
    if not variables:
        # Keras would not count the step.
        tf_variable(optimizer.iterations).assign_add(1)
        return
    pairs = zip(gradients, variables)
    constrained = any(getattr(v, "constraint", None) is not None for v in variables)
    if _is_legacy(optimizer):
        optimizer.apply_gradients(pairs, experimental_aggregate_gradients=False)
    elif not IS_KERAS_3:
        with _without_decay(optimizer):
            optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)
    elif replica.num_replicas_in_sync == 1:
        with _without_decay(optimizer):
            optimizer.apply(gradients, variables)
    elif type(optimizer) in _WHOLE_IN_UPDATE_STEP and not constrained:
        learning_rate = tf.convert_to_tensor(optimizer.learning_rate)
        targets = [tf_variable(variable) for variable in variables]

        def update(strategy, gradients, learning_rate):
            for gradient, target in zip(gradients, targets):
                strategy.extended.update(
                    target,
                    lambda v, g, lr: optimizer.update_step(g, v, lr),
                    args=(gradient, learning_rate),
                    group=False,
                )

        replica.merge_call(update, args=(gradients, learning_rate))
        tf_variable(optimizer.iterations).assign_add(1)
    else:
        replicas = float(replica.num_replicas_in_sync)
        with _without_decay(optimizer):
            optimizer.apply([gradient / replicas for gradient in gradients], variables)


@contextlib.contextmanager
def _without_decay(optimizer):
    """Keeps a Keras optimizer from decaying weights."""
    own, optimizer.weight_decay = optimizer.weight_decay, None
    try:
        yield
    finally:
        optimizer.weight_decay = own
