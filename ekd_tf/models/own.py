"""A user's own Keras network as a backbone, and weights to start from."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from ekd_tf.checks import check_choice
from ekd_tf.keras_compat import tf_variable
from ekd_tf.models.layers import PixelNormalization


def as_backbone(
    model: keras.Model, name: str, low: float = 0.0, high: float = 255.0
) -> keras.Model:
    """Returns a network of images to vectors as `MobileFaceNet` describes one.

    Args:
        model: Of float or uint8 images. All its layers will train.
        name: What it is called in errors.
        low, high: What a float input takes for pixels of 0 and of 255.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"{name} must be a keras.Model. Received: {type(model).__name__}"
        )
    check_shapes(model, name)
    model.trainable = True
    _check_policy(model, name)
    for variable in model.variables:
        values = tf_variable(variable).numpy()
        if not np.isfinite(values.astype(np.float64)).all():
            raise ValueError(
                f"{name} has weights that are not finite: {variable.name}. Train it "
                "again from an earlier state"
            )
    (pixels,) = model.inputs
    x = image = keras.Input(pixels.shape[1:], dtype="uint8", name="image")
    if tf.as_dtype(pixels.dtype) != tf.uint8:
        scale = 255.0 / (high - low)
        x = PixelNormalization(-low * scale, scale, name="pixel_normalization")(image)
    output = keras.layers.Activation("linear", dtype="float32", name="embedding")
    return keras.Model(image, output(model(x)), name=model.name)


def check_shapes(model: keras.Model, name: str) -> None:
    """Raises `ValueError` unless a model maps square RGB images to vectors."""
    try:
        inputs, outputs = model.inputs, model.outputs
    # Sequential ones without an Input, and subclasses.
    except (AttributeError, ValueError):
        inputs = outputs = None
    if not inputs or not outputs:
        raise ValueError(
            f"{name} does not say what it takes. Begin it with a "
            "keras.Input((size, size, 3))"
        )
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(
            f"{name} must have one input and one output. Received: {len(inputs)} and "
            f"{len(outputs)}"
        )
    shape, result = tuple(inputs[0].shape), tuple(outputs[0].shape)
    if len(shape) != 4 or shape[1] is None or shape[1:] != (shape[1], shape[1], 3):
        raise ValueError(
            f"{name} must take square RGB images of a fixed size, (None, size, size, "
            f"3). Received: input {shape}"
        )
    if len(result) != 2 or result[1] is None:
        raise ValueError(
            f"{name} must return vectors (None, dim). Received: output {result}"
        )


def is_function(spec: str) -> bool:
    """Returns whether a specification may be `package.module:function`."""
    module, _, rest = spec.partition(":")
    function = rest.partition(":")[0]
    parts = [*module.split("."), function]
    return module != "keras" and all(part.isidentifier() for part in parts)


def load_function(spec: str) -> Callable[..., keras.Model]:
    """Returns the function that `package.module:function[:word=value]` names.

    Modules of the current folder are found.
    """
    module, function = spec.split(":")[:2]
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        names = vars(importlib.import_module(module))
    # Whatever a module of one's own does while it is imported.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{module} cannot be imported: {reason}") from error
    callables = [n for n, v in names.items() if callable(v) and not n.startswith("_")]
    check_choice(f"{module}:", function, callables)
    return names[function]


def _check_policy(model, name):
    if not model.trainable_variables:
        raise ValueError(f"{name} has no weights to train")
    wanted = keras.mixed_precision.global_policy()
    kinds = {
        layer.compute_dtype
        for layer in model._flatten_layers()
        # A model within the model says nothing of its layers.
        if layer.trainable_weights and not isinstance(layer, keras.Model)
    }
    stored = {tf_variable(v).dtype.name for v in model.trainable_variables}
    others = kinds - {wanted.compute_dtype, "float32"}
    if wanted.compute_dtype not in kinds or others or stored != {"float32"}:
        raise ValueError(
            f"{name} computes in {' and '.join(sorted(kinds))} with "
            f"weights of {' and '.join(sorted(stored))}, the run in "
            f"{wanted.compute_dtype} with weights of float32 (--precision="
            f"{wanted.name}). Build it under that policy, or train under its own"
        )


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
