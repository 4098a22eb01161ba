"""Trained models from SavedModel directories; needs no class of the model."""

from __future__ import annotations

import os
import pathlib

import tensorflow as tf

from ekd_tf.teachers.frozen import FrozenEmbedder
from ekd_tf.teachers.frozen import check_outputs
from ekd_tf.teachers.frozen import content_hash
from ekd_tf.teachers.frozen import square_side

SIGNATURE = "serving_default"

SAVED_MODEL_FILE = "saved_model.pb"


class SavedModelEmbedder(FrozenEmbedder):
    """Embeds by the `serving_default` of a SavedModel, traceable and not trained.

    Args:
        path: The directory that holds `saved_model.pb`.
        low: Float, what a model of float input is given for a pixel of 0.
        high: Float, the same for 255.

    Raises:
        ValueError: There is no SavedModel, or it is no model of images to embeddings.
    """

    traceable = True

    def __init__(self, path, low: float = 0.0, high: float = 255.0):
        self.name = str(path)
        folder = pathlib.Path(path)
        if not (folder / SAVED_MODEL_FILE).is_file():
            raise ValueError(f"{path} is no SavedModel: it holds no {SAVED_MODEL_FILE}")
        # The signature does not keep the variables alive; the object does.
        self._loaded = tf.saved_model.load(os.fspath(path))
        self._signature = self._loaded.signatures.get(SIGNATURE)
        if self._signature is None:
            raise ValueError(
                f"{path} must have an endpoint {SIGNATURE!r}. "
                f"It has: {sorted(self._loaded.signatures)}"
            )
        inputs = self._signature.structured_input_signature[1]
        outputs = {
            name: tuple(spec.shape)
            for name, spec in self._signature.structured_outputs.items()
        }
        if len(inputs) != 1:
            raise ValueError(f"{path} must have one input. Received: {sorted(inputs)}")
        ((self._input, spec),) = inputs.items()
        self.input_size, self._channels_first = square_side(self.name, spec.shape)
        self._output = check_outputs(self.name, outputs)
        self.embedding_dim = outputs[self._output][1]
        self._dtype = spec.dtype
        self._scale = (high - low) / 255, low
        # Not of what lies beside them: a model card may be written anew.
        parts = [folder / name for name in ("variables", "assets")]
        of_parts = [content_hash(part) for part in parts if part.is_dir()]
        self.fingerprint = content_hash(folder / SAVED_MODEL_FILE, of_parts, low, high)

    def __call__(self, images) -> tf.Tensor:
        images = tf.convert_to_tensor(images)
        if self._dtype != images.dtype:
            step, low = self._scale
            images = tf.cast(tf.cast(images, tf.float32) * step + low, self._dtype)
        if self._channels_first:
            images = tf.transpose(images, [0, 3, 1, 2])
        embeddings = self._signature(**{self._input: images})[self._output]
        return tf.cast(tf.stop_gradient(embeddings), tf.float32)
