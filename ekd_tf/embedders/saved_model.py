"""Trained models from SavedModel directories; needs no class of the model."""

from __future__ import annotations

import os
import pathlib

import tensorflow as tf

from ekd_tf import checks
from ekd_tf.embedders.frozen import FrozenEmbedder
from ekd_tf.embedders.frozen import check_outputs
from ekd_tf.embedders.frozen import content_hash
from ekd_tf.embedders.frozen import in_traced_batches
from ekd_tf.embedders.frozen import loading_error
from ekd_tf.embedders.frozen import square_side
from ekd_tf.models.torch_families import COLORS

SIGNATURE = "serving_default"
# What a SavedModel is made of; a card or a report may lie beside it.
SAVED_MODEL_FILE = "saved_model.pb"
_PARTS = ("variables", "assets", "assets.extra")


class SavedModelEmbedder(FrozenEmbedder):
    """Embeds by the `serving_default` of a SavedModel, traceable and not trained.

    Args:
        path: The directory that holds `saved_model.pb`.
        low: See `Pixels`.
        high: See `Pixels`.
        color: See `Pixels`.

    Raises:
        ValueError: There is no SavedModel, it cannot be loaded, or it is no model of
            images to embeddings.
    """

    traceable = True

    def __init__(
        self,
        path: str | os.PathLike,
        low: float = 0.0,
        high: float = 255.0,
        color: str = "rgb",
    ):
        checks.check_range("high", high, low=low, low_open=True)
        checks.check_choice("color", color, COLORS)
        self.name = str(path)
        folder = pathlib.Path(path)
        if not (folder / SAVED_MODEL_FILE).is_file():
            raise ValueError(f"{path} is no SavedModel: it holds no {SAVED_MODEL_FILE}")
        # The signature does not keep the variables alive; the object does.
        try:
            self._loaded = tf.saved_model.load(os.fspath(path))
        # TensorFlow and protobuf raise a dozen kinds: the files are no good.
        except Exception as error:
            raise loading_error(path, error) from error
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
        self._batch = spec.shape[0]
        self._output = check_outputs(self.name, outputs)
        self.embedding_dim = outputs[self._output][1]
        self._dtype = spec.dtype
        self._scale = (high - low) / 255, low
        self._color = color
        parts = [content_hash(folder / n) for n in _PARTS if (folder / n).is_dir()]
        self.fingerprint = content_hash(
            folder / SAVED_MODEL_FILE, low, high, color, *parts
        )

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        images = tf.convert_to_tensor(images)
        if self._color == "bgr":
            images = images[..., ::-1]
        if self._dtype != images.dtype:
            step, low = self._scale
            images = tf.cast(tf.cast(images, tf.float32) * step + low, self._dtype)
        if self._channels_first:
            images = tf.transpose(images, [0, 3, 1, 2])
        return tf.stop_gradient(in_traced_batches(self._run, images, self._batch))

    def _run(self, images):
        embeddings = self._signature(**{self._input: images})[self._output]
        return tf.cast(embeddings, tf.float32)
