"""Teachers from torch state_dicts."""

from __future__ import annotations

from ekd_tf.embedders.frozen import content_hash
from ekd_tf.embedders.keras_model import KerasEmbedder
from ekd_tf.embedders.torch_file import read_state_dict
from ekd_tf.models.torch_families import COLORS
from ekd_tf.models.torch_families import TORCH_FAMILIES
from ekd_tf.models.torch_families import build_from_torch


class TorchEmbedder(KerasEmbedder):
    """Embeds by the Keras backbone that a torch state_dict belongs to.

    Args:
        family: One of `TORCH_FAMILIES`.
        path: See `read_state_dict`.
        color: See `build_from_torch`.

    Attributes:
        model: The `keras.Model`, of uint8 RGB images, not trainable.

    Raises:
        ValueError: The file cannot be read, or its weights are not exactly those of
            the family.
    """

    def __init__(self, family: str, path, color: str = "rgb"):
        arrays = read_state_dict(path)
        try:
            self.model = build_from_torch(family, arrays, color)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        self.name = str(path)
        self.input_size = self.model.input_shape[1]
        self.embedding_dim = self.model.output_shape[1]
        self.fingerprint = content_hash(path, family, color)


def open_torch(spec: str) -> TorchEmbedder | None:
    """Opens `FAMILY:FILE` or `FAMILY:FILE@bgr`; None if `spec` is nothing of the kind.

    Args:
        spec: FAMILY is one of `TORCH_FAMILIES`, FILE what `read_state_dict` takes.

    Raises:
        ValueError: See `TorchEmbedder`.
    """
    family, _, path = spec.partition(":")
    if family not in TORCH_FAMILIES:
        return None
    file, _, color = path.rpartition("@")
    if file and color in COLORS:
        return TorchEmbedder(family, file, color)
    return TorchEmbedder(family, path)
