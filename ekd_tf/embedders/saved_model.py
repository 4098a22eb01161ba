"""Trained models from SavedModel directories; needs no class of the model."""

from __future__ import annotations

import os

import tensorflow as tf

from ekd_tf.embedders.frozen import PixelEmbedder
from ekd_tf.embedders.frozen import check_utf8
from ekd_tf.embedders.frozen import content_hash
from ekd_tf.embedders.frozen import in_traced_batches
from ekd_tf.embedders.frozen import loading_error
from ekd_tf.files.model_parts import SAVED_MODEL_FILE
from ekd_tf.files.model_parts import parts_beside

SIGNATURE = "serving_default"


class SavedModelEmbedder(PixelEmbedder):
    """Embeds by the `serving_default` of a SavedModel, traceable and not trained.

    Arguments as `PixelEmbedder`; the path is the directory of `saved_model.pb`.
    """

    traceable = True

    def _open(self, path):
        graph = self._path / SAVED_MODEL_FILE
        if not graph.is_file():
            raise ValueError(f"{path} is no SavedModel: it holds no {SAVED_MODEL_FILE}")
        check_utf8(path)
        try:
            # The signature does not keep the variables alive; the object does.
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
        _, inputs = self._signature.structured_input_signature
        outputs = self._signature.structured_outputs
        self._take_shapes(
            {name: _sizes(spec.shape) for name, spec in inputs.items()},
            {name: _sizes(spec.shape) for name, spec in outputs.items()},
        )
        self._dtype = inputs[self._input].dtype
        # A card or a report may lie beside these.
        self.fingerprint = self._hash(graph, *map(content_hash, parts_beside(graph)))

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        images = tf.convert_to_tensor(images)
        if self._color == "bgr":
            images = images[..., ::-1]
        if self._dtype != images.dtype:
            low, high = self._range
            pixels = tf.cast(images, tf.float32) * ((high - low) / 255) + low
            images = tf.cast(pixels, self._dtype)
        if self._channels_first:
            images = tf.transpose(images, [0, 3, 1, 2])
        return tf.stop_gradient(in_traced_batches(self._run, images, self._batch))

    def _run(self, images):
        embeddings = self._signature(**{self._input: images})[self._output]
        return tf.cast(embeddings, tf.float32)


def _sizes(shape):
    # Of an unknown rank a shape is no sequence.
    return () if shape.rank is None else tuple(shape)
