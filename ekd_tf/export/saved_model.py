"""SavedModel in the layout of TF Serving, and a reader of it."""

from __future__ import annotations

import os
import pathlib

import keras
import numpy as np
import tensorflow as tf

from ekd_tf.export.precision import as_float32
from ekd_tf.export.staging import free_version
from ekd_tf.export.staging import staged

SIGNATURE = "serving_default"


def export_saved_model(model: keras.Model, directory, version=None) -> pathlib.Path:
    """Writes `model` as `<directory>/<version>/`, complete or not at all.

    The endpoint `serving_default` maps `images`, uint8 `(n, height, width, 3)` RGB
    in 0..255 for any n, to `{"embedding": float32 (n, dim)}` of Euclidean length 1.
    It computes in float32 whatever policy the model was trained under.

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
    """Writes a float32 student to `path`, which must not exist yet."""

    def embed(images):
        raw = student(images, training=False)
        # This form and no other becomes one L2_NORMALIZATION in TFLite.
        return {"embedding": tf.nn.l2_normalize(raw, axis=-1)}

    archive = keras.export.ExportArchive()
    archive.track(student)
    archive.add_endpoint(
        name=SIGNATURE,
        fn=embed,
        input_signature=[
            tf.TensorSpec((None, *student.input_shape[1:]), tf.uint8, name="images")
        ],
    )
    # Keras prints a page about the endpoint unless it is told to log.
    interactive = keras.utils.is_interactive_logging_enabled()
    keras.utils.disable_interactive_logging()
    try:
        archive.write_out(os.fspath(path))
    finally:
        if interactive:
            keras.utils.enable_interactive_logging()


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
        specs = self.signature.structured_input_signature[1]
        self.image_shape = tuple(specs["images"].shape[1:])

    def __call__(self, images) -> np.ndarray:
        """Returns the float32 embeddings `(n, dim)` of uint8 images."""
        images = check_images(images, self.image_shape)
        return self.signature(images=tf.constant(images))["embedding"].numpy()
