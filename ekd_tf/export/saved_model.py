"""A student as it is exported: checked, in float32, as a SavedModel."""

from __future__ import annotations

import os

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from ekd_tf.data.image_pixels import decode_image
from ekd_tf.data.image_pixels import fit
from ekd_tf.embedders.saved_model import SIGNATURE
from ekd_tf.export.upright import upright
from ekd_tf.keras_compat import tf_variable

FLOAT_SIGNATURE = "embed_float"
JPEG_SIGNATURE = "embed_jpeg"
_HALF = ("float16", "bfloat16", "mixed_float16", "mixed_bfloat16")


def write_saved_model(student: keras.Model, path: str | os.PathLike) -> None:
    """Writes a student, from `float32_copy`, as a SavedModel of three endpoints.

    Each returns `{"embedding": float32 (n, dim)}` of Euclidean length 1 for any n:

    - `serving_default`: `images`, uint8 `(n, height, width, 3)`, RGB.
    - `embed_float`: `images`, float32 of the same shape, RGB in 0..255, fractions
      kept. Returns also `raw_embedding`, the same before it is brought to length 1:
      what templates of several images are averaged from.
    - `embed_jpeg`: `image_bytes`, string `(n,)`, n may be 0: JPEG, PNG, GIF or BMP
      files, decoded, turned upright as their EXIF orientation says and, where they are
      of another size, resized with antialias as in training.
    """
    served = tf.Module()
    served.weights = [tf_variable(variable) for variable in student.variables]
    signatures = {
        name: tf.function(function, autograph=False, input_signature=[spec])
        for name, (function, spec) in endpoints(student).items()
    }
    for name, function in signatures.items():
        setattr(served, name, function)
    # Not by Keras's archive: it saves the layers too, which nobody reads, and so takes
    # half as long again.
    save(served, path, signatures)


def save(module: tf.Module, path: str | os.PathLike, signatures: dict) -> None:
    """Writes a SavedModel, without the dozen lines that TensorFlow says of it."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(min(verbosity, logging.WARNING))
    try:
        tf.saved_model.save(module, os.fspath(path), signatures=signatures)
    except tf.errors.OpError as error:
        # A full disk, above all; TensorFlow's own error is no OSError.
        raise OSError(f"Cannot write {path}: {error.message}") from error
    finally:
        logging.set_verbosity(verbosity)


def endpoints(student: keras.Model) -> dict:
    """Returns what the endpoints of a student, as `float32_copy` returns it, compute.

    Name -> a function of one tensor to a dict of named ones, and the tensor's
    `tf.TensorSpec`.
    """
    size = student.input_shape[1]
    (image,) = student.inputs
    # The same layers behind a float input: Keras casts what it is given to the dtype of
    # the input, uint8, and so drops fractions. Keras 2 names the tensor of the layer
    # "image" just so; no name may occur twice.
    pixels = keras.Input((size, size, 3), dtype="float32", name=image.name)
    on_floats = keras.models.clone_model(
        student, input_tensors=pixels, clone_function=lambda layer: layer
    )

    # Traced once for all three: tracing takes most of an export's time.
    @tf.function(autograph=False)
    def raw_embedding(images):
        return on_floats(images, training=False)

    def unit(raw):
        # This form and no other becomes one L2_NORMALIZATION in TFLite.
        return tf.nn.l2_normalize(raw, axis=-1)

    def embed(images):
        return {"embedding": unit(raw_embedding(tf.cast(images, tf.float32)))}

    def embed_float(images):
        raw = raw_embedding(images)
        return {"embedding": unit(raw), "raw_embedding": raw}

    def embed_jpeg(image_bytes):
        pixels = tf.map_fn(
            lambda data: fit(upright(decode_image(data), data), size),
            image_bytes,
            fn_output_signature=tf.TensorSpec((size, size, 3), tf.uint8),
        )
        # Of no images oneDNN's convolution makes a tensor of the wrong shape. Only
        # here: the others are converted, and converters keep what they are given.
        rows = tf.shape(pixels)[0]
        filling = tf.cast(rows == 0, tf.int32)
        pixels = tf.pad(pixels, [[0, filling], [0, 0], [0, 0], [0, 0]])
        return {"embedding": embed(pixels)["embedding"][:rows]}

    images = (None, size, size, 3)
    return {
        SIGNATURE: (embed, tf.TensorSpec(images, tf.uint8, "images")),
        FLOAT_SIGNATURE: (embed_float, tf.TensorSpec(images, tf.float32, "images")),
        JPEG_SIGNATURE: (embed_jpeg, tf.TensorSpec((None,), tf.string, "image_bytes")),
    }


def check_student(model: keras.Model) -> keras.Model:
    """Returns `model` if it maps square uint8 images of a fixed size to embeddings."""
    # A subclass may have neither, or None.
    inputs, outputs = (getattr(model, name, None) for name in ("inputs", "outputs"))
    inputs = [(tf.as_dtype(i.dtype).name, *i.shape) for i in inputs or ()]
    outputs = [tuple(output.shape) for output in outputs or ()]
    size = inputs[0][2] if inputs and len(inputs[0]) == 5 else None
    is_image = size is not None and inputs == [("uint8", None, size, size, 3)]
    if not is_image or len(outputs) != 1 or len(outputs[0]) != 2:
        raise ValueError(
            "`model` must be a functional Keras model of uint8 images (None, size, "
            "size, 3) of a fixed size to one output of embeddings (None, dim). "
            f"Received: inputs={inputs}, outputs={outputs}"
        )
    return model


def check_images(images: np.ndarray, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Returns `images` as uint8 `(n, height, width, 3)` or raises `ValueError`."""
    images = np.asarray(images)
    expected = tuple(image_shape)
    if images.dtype != np.uint8 or images.shape[1:] != expected or images.ndim != 4:
        raise ValueError(
            f"`images` must be uint8 (n, {', '.join(map(str, expected))}). "
            f"Received: {images.dtype} {images.shape}"
        )
    return images


def float32_copy(model: keras.Model) -> keras.Model:
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
        layer.name for layer in model._flatten_layers() if layer.compute_dtype in _HALF
    ]


def _in_float32(node):
    """Replaces half-precision policies and dtypes anywhere in a Keras config."""
    if isinstance(node, dict):
        # DTypePolicy on Keras 3, Policy on Keras 2.15.
        if str(node.get("class_name")).endswith("Policy"):
            return "float32" if node["config"].get("name") in _HALF else node
        return {
            key: "float32" if key == "dtype" and value in _HALF else _in_float32(value)
            for key, value in node.items()
        }
    if isinstance(node, (list, tuple)):
        return type(node)(_in_float32(value) for value in node)
    return node
