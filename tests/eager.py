"""Runs each `tf.function` op by op: a call of few rows takes less than a trace."""

import contextlib

import tensorflow as tf


@contextlib.contextmanager
def op_by_op(on=True):
    """Within it functions run op by op or, if `on` is False, are traced."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(on)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)
