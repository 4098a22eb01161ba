"""A float32 copy of a model that was built under a half-precision policy."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

HALF = ("float16", "bfloat16", "mixed_float16", "mixed_bfloat16")


def as_float32(model: keras.Model) -> keras.Model:
    """Returns a copy of `model` that computes in float32, with the same weights.

    TFLite cannot take a mixed-precision graph, and a served student should not
    depend on the accelerator it was trained on. Custom layers must be registered
    (`keras.saving.register_keras_serializable`) and say all in their config.
    """
    outer = keras.mixed_precision.global_policy()
    # A layer that makes its parts in __init__ takes their policy from here.
    keras.mixed_precision.set_global_policy("float32")
    try:
        copy = type(model).from_config(_in_float32(model.get_config()))
    finally:
        keras.mixed_precision.set_global_policy(outer)
    copy.set_weights(
        [
            np.asarray(value).astype(tf.as_dtype(weight.dtype).as_numpy_dtype)
            for weight, value in zip(copy.weights, model.get_weights())
        ]
    )
    half = half_precision_layers(copy)
    if half:
        raise ValueError(
            "Every layer of `model` must take its dtype from its config or from the "
            f"global policy. Still half precision after the rebuild: {', '.join(half)}"
        )
    return copy


def half_precision_layers(model: keras.Model) -> list[str]:
    """Returns the names of all layers, inner ones too, that compute in 16 bits."""
    # `model.layers` stops at the parts of custom layers; this walk does not.
    return [
        layer.name for layer in model._flatten_layers() if layer.compute_dtype in HALF
    ]


def _in_float32(node):
    """Replaces half-precision policies and dtypes anywhere in a Keras config."""
    if isinstance(node, dict):
        # DTypePolicy on Keras 3, Policy on Keras 2.15.
        if str(node.get("class_name")).endswith("Policy"):
            return "float32" if node["config"].get("name") in HALF else node
        return {
            key: "float32" if key == "dtype" and value in HALF else _in_float32(value)
            for key, value in node.items()
        }
    if isinstance(node, (list, tuple)):
        return type(node)(_in_float32(value) for value in node)
    return node
