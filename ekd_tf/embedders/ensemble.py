"""Several teachers as one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from ekd_tf.data import SyntheticFaces
from ekd_tf.data import evaluation_batches
from ekd_tf.embedders.frozen import FrozenEmbedder
from ekd_tf.metrics import naming_images
from ekd_tf.metrics import normalize_rows
from ekd_tf.ops.numerics import l2_normalize

# Mean cosine of two models' embeddings of one image from which their spaces count as
# one. Of models that were trained apart it is about 0.
ONE_SPACE = 0.5
_FACES = 16


class EnsembleEmbedder(FrozenEmbedder):
    """Embeds by several models: the mean of their unit embeddings, or all in a row.

    Models of one space, such as two students of one teacher, are averaged. The unit
    embeddings of others are concatenated and divided by the root of their number, so
    that a cosine is the mean of the models' cosines. Which of both, `averaged`, is by
    default measured on synthetic faces, and logged. All must be of one input size.
    """

    def __init__(self, models: Sequence[FrozenEmbedder], averaged: bool | None = None):
        sizes = {model.name: model.input_size for model in models}
        if len(set(sizes.values())) > 1:
            raise ValueError(
                f"Teachers that are joined by + must take images of one size: {sizes}"
            )
        self._models = models
        self.name = "+".join(model.name for model in models)
        self.runtime = " and ".join(dict.fromkeys(model.runtime for model in models))
        self.input_size = models[0].input_size
        self.traceable = all(model.traceable for model in models)
        self._averaged = self._are_of_one_space() if averaged is None else averaged
        dims = [model.embedding_dim for model in models]
        self.embedding_dim = dims[0] if self._averaged else sum(dims)
        parts = [f"{self._averaged}", *(model.fingerprint for model in models)]
        self.fingerprint = hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def __call__(self, images: np.ndarray | tf.Tensor) -> np.ndarray | tf.Tensor:
        count = len(self._models)
        if self.traceable:
            units = [l2_normalize(model(images)) for model in self._models]
            if self._averaged:
                return tf.add_n(units) / count
            return tf.concat(units, axis=1) / count**0.5
        units = []
        for model in self._models:
            with naming_images(model.name, lambda _: "of the batch"):
                units.append(normalize_rows(np.asarray(model(images))))
        if self._averaged:
            return np.mean(units, axis=0)
        return np.concatenate(units, axis=1) / np.float32(count**0.5)

    def traced(self) -> FrozenEmbedder | None:
        """Returns it as TensorFlow operations where each of the models can be."""
        parts: list[Any] = [model.traced() for model in self._models]
        return None if None in parts else EnsembleEmbedder(parts, self._averaged)

    def _are_of_one_space(self):
        if len({model.embedding_dim for model in self._models}) > 1:
            logging.info("%s: embeddings of other lengths, concatenated.", self.name)
            return False
        source, order = SyntheticFaces(_FACES, 1, size=96), np.arange(_FACES)
        (faces,) = evaluation_batches(source, order, self.input_size, _FACES)
        units = [normalize_rows(np.asarray(model(faces))) for model in self._models]
        cosine = min(np.sum(units[0] * other, axis=1).mean() for other in units[1:])
        averaged = bool(cosine > ONE_SPACE)
        form = "one space, averaged" if averaged else "concatenated"
        text = "%s: %s; the mean cosine of their embeddings of one image is %.2f."
        logging.info(text, self.name, form, cosine)
        return averaged
