"""SavedModel in the layout of TF Serving, and a reader of it."""

from __future__ import annotations

import os
import pathlib

import keras
import numpy as np
import tensorflow as tf

from ekd_tf.data.one_image import decode_image
from ekd_tf.data.one_image import fit
from ekd_tf.data.one_image import round_pixels
from ekd_tf.export.precision import as_float32
from ekd_tf.export.staging import free_version
from ekd_tf.export.staging import staged
from ekd_tf.keras_compat import tf_variable

SIGNATURE = "serving_default"
FLOAT_SIGNATURE = "embed_float"
JPEG_SIGNATURE = "embed_jpeg"


def export_saved_model(model: keras.Model, directory, version=None) -> pathlib.Path:
    """Writes `model` as `<directory>/<version>/`, complete or not at all.

    Three endpoints, each for any n >= 1, return `{"embedding": float32 (n, dim)}` of
    Euclidean length 1:

    - `serving_default`: `images`, uint8 `(n, height, width, 3)`, RGB.
    - `embed_float`: `images`, float32 of the same shape, RGB in 0..255, fractions
      kept. Returns also `raw_embedding`, the same before it is brought to length 1:
      what templates of several images are averaged from.
    - `embed_jpeg`: `image_bytes`, string `(n,)`, n may be 0: JPEG, PNG, GIF or BMP
      files, decoded and, where they are of another size, resized with antialias as in
      training.

    All compute in float32 whatever policy the model was trained under.

    Args:
        model: Keras model as described at `check_student`.
        directory: The directory TF Serving watches; made if missing.
        version: Int >= 1, or None for one above the highest present.

    Returns:
        The path of the version's directory.

    Raises:
        FileExistsError: The version is there already.
        OSError: The directory cannot be made or written to.
        ValueError: The model is no student.
    """
    student = as_float32(check_student(model))
    final = pathlib.Path(directory) / str(free_version(directory, version))
    with staged(final) as target:
        write_saved_model(student, target)
    return final


def write_saved_model(student: keras.Model, path):
    """Writes a float32 student to `path`, which must not exist yet.

    Args:
        student: As returned by `as_float32`.
        path: The directory to write.

    Raises:
        OSError: It cannot be written, as on a full disk.
    """
    served = tf.Module()
    served.weights = [tf_variable(variable) for variable in student.variables]
    signatures = {
        name: tf.function(function, autograph=False, input_signature=[spec])
        for name, (function, spec) in endpoints(student).items()
    }
    for name, function in signatures.items():
        setattr(served, name, function)
    try:
        # Not by Keras's archive: it saves the layers too, which nobody reads, and so
        # takes half as long again.
        tf.saved_model.save(served, os.fspath(path), signatures=signatures)
    except tf.errors.OpError as error:
        # A full disk, above all; TensorFlow's own error is no OSError.
        raise OSError(f"Cannot write {path}: {error.message}") from error


def endpoints(student: keras.Model) -> dict:
    """Returns what the endpoints compute.

    Args:
        student: As returned by `as_float32`.

    Returns:
        For SIGNATURE, FLOAT_SIGNATURE and JPEG_SIGNATURE: a function of one tensor to
        a dict of named ones, and the tensor's `tf.TensorSpec`.
    """
    image_shape = tuple(student.input_shape[1:])
    on_floats = _on_floats(student)

    # Traced once for all three: tracing takes most of an export's time.
    @tf.function(autograph=False)
    def raw_embedding(images):
        return on_floats(images, training=False)

    def embed(images):
        return {"embedding": _unit(raw_embedding(tf.cast(images, tf.float32)))}

    def embed_float(images):
        raw = raw_embedding(images)
        return {"embedding": _unit(raw), "raw_embedding": raw}

    def embed_jpeg(image_bytes):
        pixels = tf.map_fn(
            lambda data: _exactly(decode_image(data), image_shape),
            image_bytes,
            fn_output_signature=tf.TensorSpec(image_shape, tf.uint8),
        )
        # Of no images oneDNN's convolution makes a tensor of the wrong shape. Only
        # here: the others are converted, and converters keep what they are given.
        rows = tf.shape(pixels)[0]
        filling = tf.cast(rows == 0, tf.int32)
        pixels = tf.pad(pixels, [[0, filling], [0, 0], [0, 0], [0, 0]])
        return {"embedding": embed(pixels)["embedding"][:rows]}

    images = (None, *image_shape)
    return {
        SIGNATURE: (embed, tf.TensorSpec(images, tf.uint8, "images")),
        FLOAT_SIGNATURE: (embed_float, tf.TensorSpec(images, tf.float32, "images")),
        JPEG_SIGNATURE: (embed_jpeg, tf.TensorSpec((None,), tf.string, "image_bytes")),
    }


def _unit(raw):
    # This form and no other becomes one L2_NORMALIZATION in TFLite.
    return tf.nn.l2_normalize(raw, axis=-1)


def _on_floats(student):
    """Returns the student on float pixels: the same layers behind another input.

    Keras casts what it is given to the dtype of the input, uint8, and so drops the
    fractions.
    """
    (image,) = student.inputs
    # Keras 2 names the tensor of the layer "image" just so; no name may occur twice.
    pixels = keras.Input(student.input_shape[1:], dtype="float32", name=image.name)
    return keras.models.clone_model(
        student, input_tensors=pixels, clone_function=lambda layer: layer
    )


def _exactly(image, image_shape):
    """Resizes a decoded image to a shape that need not be square."""
    height, width, _ = image_shape
    if height == width:
        return fit(image, height)
    resized = tf.image.resize(image, (height, width), antialias=True)
    return round_pixels(resized)


def check_student(model: keras.Model) -> keras.Model:
    """Returns `model` if it maps uint8 images of a fixed size to embeddings.

    Raises:
        ValueError: It has not exactly one input `(None, height, width, 3)` of uint8
            and one output `(None, dim)`. Says what it has.
    """
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or not outputs or len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(
            "`model` must be a functional Keras model with one input and one output. "
            f"Received: inputs={inputs}, outputs={outputs}"
        )
    shape, dtype = tuple(inputs[0].shape), tf.as_dtype(inputs[0].dtype)
    if len(shape) != 4 or None in shape[1:] or shape[3] != 3 or dtype != tf.uint8:
        raise ValueError(
            "`model` must take uint8 images (None, height, width, 3) of a fixed size. "
            f"Received: {dtype.name} {shape}"
        )
    embedding = tuple(outputs[0].shape)
    if len(embedding) != 2 or embedding[1] is None:
        raise ValueError(
            f"`model` must return embeddings (None, dim). Received: {embedding}"
        )
    return model


def check_images(images, image_shape) -> np.ndarray:
    """Returns `images` as uint8 `(n, height, width, 3)` or raises `ValueError`."""
    images = np.asarray(images)
    expected = tuple(image_shape)
    if images.dtype != np.uint8 or images.shape[1:] != expected or images.ndim != 4:
        raise ValueError(
            f"`images` must be uint8 (n, {', '.join(map(str, expected))}). "
            f"Received: {images.dtype} {images.shape}"
        )
    return images


class SavedModelEmbedder:
    """Embeds images with a SavedModel's `serving_default`; needs no Keras class.

    Args:
        path: A version's directory, as `export_saved_model` returns it.

    Raises:
        ValueError: There is no SavedModel, or it has no such endpoint.
    """

    def __init__(self, path):
        path = pathlib.Path(path)
        if not (path / "saved_model.pb").is_file():
            raise ValueError(
                "`path` must be a SavedModel's directory (it holds saved_model.pb). "
                f"Received: path={path}"
            )
        # The signature does not keep the variables alive; the object does.
        self._loaded = tf.saved_model.load(os.fspath(path))
        self.signature = self._loaded.signatures.get(SIGNATURE)
        names = {} if self.signature is None else self.signature.structured_outputs
        if "embedding" not in names:
            raise ValueError(
                f"{path} must have an endpoint {SIGNATURE!r} that returns `embedding`. "
                f"It has: {sorted(self._loaded.signatures)} with {sorted(names)}"
            )
        self.float_signature = self._loaded.signatures.get(FLOAT_SIGNATURE)
        specs = self.signature.structured_input_signature[1]
        self.image_shape = tuple(specs["images"].shape[1:])

    def __call__(self, images) -> np.ndarray:
        """Returns the float32 embeddings `(n, dim)` of uint8 images."""
        images = check_images(images, self.image_shape)
        return self.signature(images=tf.constant(images))["embedding"].numpy()
