"""Starts a network from the weights of another."""

from __future__ import annotations

import keras

from ekd_tf.keras_compat import tf_variable


def copy_weights(source: keras.Model, target: keras.Model) -> list[str]:
    """Copies the weights of one network to those of another that they fit.

    All in their order, where both networks have the same shapes in the same order;
    else those of the same layer's name, variable's name and shape. Returns what of
    `target` keeps its values, as `layer/variable (shape)`.
    """
    values, variables = _named(source), _named(target)
    in_order = [v.shape for _, v in values] == [v.shape for _, v in variables]
    by_name = dict(values)
    left = []
    for number, (name, variable) in enumerate(variables):
        value = values[number][1] if in_order else by_name.get(name)
        if value is None or value.shape != variable.shape:
            left.append(f"{name} {tuple(variable.shape)}")
        else:
            variable.assign(value)
    return left


def _named(model):
    """Returns `(layer/variable, tf.Variable)` in order; inner models' layers too."""
    layers = [x for x in model._flatten_layers() if not isinstance(x, keras.Model)]
    named, seen = [], set()
    for layer in layers:
        for weight in layer.weights:
            variable = tf_variable(weight)
            if variable.ref() not in seen:
                seen.add(variable.ref())
                name = weight.name.split("/")[-1].split(":")[0]
                named.append((f"{layer.name}/{name}", variable))
    return named
