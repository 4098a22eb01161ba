"""State that a forward pass has changed, put back when its update is skipped."""

from __future__ import annotations

import tensorflow as tf


def restore_unless(finite, variables, values) -> None:
    """Gives variables their old values back where a step is not finite.

    BatchNorm's averages and the losses' thresholds move in the forward pass, before
    anyone knows whether the step is good: one NaN would stay in them for good.

    Call it in a replica context.

    Args:
        finite: Bool scalar, equal on all replicas.
        variables: List of `tf.Variable`s that are not trained.
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
