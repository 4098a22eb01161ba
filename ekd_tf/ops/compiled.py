"""Methods that are traced once, and never as a function within a function."""

from __future__ import annotations

import functools
from collections.abc import Callable

import tensorflow as tf


def compiled(method: Callable) -> Callable:
    """Makes a method a `tf.function`, unless its caller is one already.

    Called op by op, a method of hundreds of operations spends its time in Python.
    Inside a trace a function of its own helps nothing, and TensorFlow would trace its
    gradient several times: a third of what tracing a distillation step took. The method
    takes tensors, or named tuples of them, and branches on none in Python.
    """
    function = tf.function(method, autograph=False)

    @functools.wraps(method)
    def call(self, *args, **kwargs):
        if tf.inside_function():
            return method(self, *args, **kwargs)
        return function.__get__(self, type(self))(*args, **kwargs)

    return call
