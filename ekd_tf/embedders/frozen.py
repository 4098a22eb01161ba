"""What every model read from a file offers, whatever the file's format."""

from __future__ import annotations

import abc
import hashlib
import os
import pathlib
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from ekd_tf import checks
from ekd_tf.models.torch_families import COLORS

# Messages are one line; what others raise may be pages.
_REASON = 300


class FrozenEmbedder(abc.ABC):
    """A trained model that maps images to embeddings and is never trained further.

    A model of a fixed batch is given batches of that size, the last one filled up.

    Attributes:
        name: String, the path it was read from.
        input_size: Int, side of its images in pixels.
        embedding_dim: Int, length of its embeddings.
        traceable: Whether a call is TensorFlow operations, which a `tf.function` may
            trace. Otherwise calls leave TensorFlow and take and return arrays.
        fingerprint: String, a hash of the file's bytes and of what is done to pixels.
    """

    name: str
    input_size: int
    embedding_dim: int
    traceable: bool = False
    fingerprint: str

    @abc.abstractmethod
    def __call__(self, images: np.ndarray | tf.Tensor) -> np.ndarray | tf.Tensor:
        """Embeds uint8 RGB images `(n, input_size, input_size, 3)`.

        Returns:
            Float32 `(n, embedding_dim)`, as the model gives them: normalised or not.
        """


class Pixels:
    """Turns uint8 pixels into what a model's input takes.

    Args:
        dtype: Of the input. Floats are scaled to `low` .. `high`; uint8 is passed on.
        channels_first: Whether the input is `(n, 3, height, width)`.
        low: What a pixel of 0 becomes.
        high: What a pixel of 255 becomes.
        color: "rgb" or "bgr", the order of the channels it takes.
    """

    def __init__(
        self,
        dtype: np.dtype,
        channels_first: bool,
        low: float,
        high: float,
        color: str = "rgb",
    ):
        checks.check_range("high", high, low=low, low_open=True)
        checks.check_choice("color", color, COLORS)
        self._step = -1 if color == "bgr" else 1
        self._dtype = np.dtype(dtype)
        self._channels_first = channels_first
        # Exact for 0 .. 255, the default.
        step = (high - low) / 255
        self._values = (np.arange(256) * step + low).astype(self._dtype)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        images = np.asarray(images)[..., :: self._step]
        if self._channels_first:
            # While it is a quarter of the bytes.
            images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        if self._dtype != np.uint8:
            images = self._values[images]
        return images


def square_side(name: str, shape: Sequence) -> tuple[int, bool]:
    """Returns an input's side in pixels and whether its channels come first.

    Raises:
        ValueError: It is no batch of square RGB images of a fixed size.
    """
    shape = tuple(shape)
    if len(shape) == 4:
        _, *inner = shape
        for channels_first, (channels, *sides) in (
            (False, (inner[2], inner[0], inner[1])),
            (True, tuple(inner)),
        ):
            if channels == 3 and sides[0] == sides[1] and isinstance(sides[0], int):
                return sides[0], channels_first
    raise ValueError(
        f"{name} must take square RGB images of a fixed size, (n, size, size, 3) or "
        f"(n, 3, size, size). Received: input {shape}"
    )


def check_outputs(name: str, outputs: dict[str, tuple]) -> str:
    """Returns the name of the output that is "embedding", or the only one.

    Args:
        name: The model, for the message.
        outputs: Name -> shape.

    Raises:
        ValueError: There is none or a choice, or it is not `(n, dim)`.
    """
    chosen = "embedding" if "embedding" in outputs else next(iter(outputs), None)
    if len(outputs) == 1 or chosen == "embedding":
        shape = tuple(outputs[chosen])
        if len(shape) == 2 and isinstance(shape[1], int):
            return chosen
    raise ValueError(
        f"{name} must have one output (n, dim), or one of that shape named "
        f"'embedding'. Received: {outputs}"
    )


def in_batches(function: Callable, images: np.ndarray, size: int) -> np.ndarray:
    """Calls a function that takes exactly `size` images; fills up with zeros."""
    rows = []
    for start in range(0, len(images), size):
        part = images[start : start + size]
        count = len(part)
        if count < size:
            part = np.pad(part, [(0, size - count)] + [(0, 0)] * (images.ndim - 1))
        rows.append(function(part)[:count])
    return np.concatenate(rows)


def in_traced_batches(
    function: Callable, images: tf.Tensor, size: int | None
) -> tf.Tensor:
    """Does what `in_batches` does by TensorFlow operations; None: any number."""
    if size is None or images.shape[0] == size:
        return function(images)
    count = tf.shape(images)[0]
    lack = [[0, -count % size]] + [[0, 0]] * (len(images.shape) - 1)
    batches = tf.reshape(tf.pad(images, lack), [-1, size, *images.shape[1:]])
    rows = tf.map_fn(function, batches, fn_output_signature=tf.float32)
    rows = tf.reshape(rows, [-1, rows.shape[-1]])[:count]
    return tf.ensure_shape(rows, [images.shape[0], None])


def loading_error(path: str | os.PathLike, error: Exception) -> ValueError:
    """Returns the error of a model file that is no good, in one line."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if len(reason) > _REASON:
        reason = f"{reason[:_REASON]}..."
    return ValueError(f"{path} cannot be loaded: {reason}")


def content_hash(path: str | os.PathLike, *settings: float | str) -> str:
    """Hashes the bytes of a file, or of all files below a folder, and settings."""
    path = pathlib.Path(path)
    digest = hashlib.sha256(repr(settings).encode())
    files = (
        sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    )
    for file in files:
        digest.update(os.fsencode(f"{file.relative_to(path)}\0"))
        with open(file, "rb") as stream:
            for chunk in iter(lambda: stream.read(1 << 20), b""):
                digest.update(chunk)
    return digest.hexdigest()
