"""What every model read from a file offers, whatever the file's format."""

from __future__ import annotations

import abc
import hashlib
import os
import pathlib
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ekd_tf import checks
from ekd_tf.files.user_text import is_utf8
from ekd_tf.models.torch_families import COLORS


class FrozenEmbedder(abc.ABC):
    """A trained model that maps images to embeddings and is never trained further.

    Attributes:
        name: The path it was read from.
        input_size: Side of its images in pixels.
        embedding_dim: Length of its embeddings.
        traceable: Whether a call is TensorFlow operations, which a `tf.function` may
            trace. Otherwise calls leave TensorFlow and take and return arrays.
        runtime: What runs it.
        fingerprint: A hash of the file's bytes and of what is done to pixels.
    """

    name: str
    input_size: int
    embedding_dim: int
    traceable: bool = False
    runtime: str = "TensorFlow"
    fingerprint: str

    @abc.abstractmethod
    def __call__(self, images: np.ndarray | tf.Tensor) -> np.ndarray | tf.Tensor:
        """Embeds uint8 RGB images `(n, input_size, input_size, 3)`.

        Returns float32 `(n, embedding_dim)`, normalised or not.
        """

    def traced(self) -> FrozenEmbedder | None:
        """Returns this model as TensorFlow operations, None where it cannot be."""
        return self if self.traceable else None


class PixelEmbedder(FrozenEmbedder):
    """A model of which the file does not say what range of pixels it takes.

    Args:
        path: The model's file or folder.
        low, high: What pixels of 0 and 255 become for an input of floats; uint8 is
            passed on. Many of insightface's models take -1 .. 1.
        color: "rgb" or "bgr", the order of the channels it takes.
        **options: `num_threads`, CPU threads, where the runtime has a choice.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        low: float = 0.0,
        high: float = 255.0,
        color: str = "rgb",
        **options: Any,
    ):
        checks.check_range("high", high, low=low, low_open=True)
        checks.check_choice("color", color, COLORS)
        self.name = str(path)
        self._path = pathlib.Path(path)
        self._range = low, high
        self._color = color
        # Exact for 0 .. 255, the default.
        self._values = np.arange(256) * ((high - low) / 255) + low
        self._open(path, **options)

    @abc.abstractmethod
    def _open(self, path, **options):
        """Loads the model, calls `_take_shapes` and sets `fingerprint`."""

    def _take_shapes(self, inputs, outputs):
        """Reads sizes off the shapes of the one input and of the outputs, by name."""
        if len(inputs) != 1:
            raise ValueError(f"{self.name} must have one input. Received: {[*inputs]}")
        ((self._input, shape),) = inputs.items()
        self.input_size, self._channels_first = square_side(self.name, shape)
        self._batch = shape[0] if isinstance(shape[0], int) else None
        self._output = check_outputs(self.name, outputs)
        self.embedding_dim = outputs[self._output][1]

    def _hash(self, path, *parts):
        return content_hash(path, *self._range, self._color, *parts)

    def _pixels(self, images, dtype):
        """Turns uint8 pixels into an array that the model's input takes."""
        images = np.asarray(images)
        if self._color == "bgr":
            images = images[..., ::-1]
        if self._channels_first:
            # While it is a quarter of the bytes.
            images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return images if dtype == np.uint8 else self._values.astype(dtype)[images]

    def _in_batches(self, pixels):
        """Calls `_run` with as many images as it takes; fills up with zeros."""
        rows = []
        size = self._batch or max(1, len(pixels))
        for start in range(0, len(pixels), size):
            part = pixels[start : start + size]
            count = len(part)
            if count < size:
                # Not for a full batch: it would take as long as a small model does.
                part = np.pad(part, [(0, size - count)] + [(0, 0)] * (pixels.ndim - 1))
            rows.append(self._run(part)[:count])
        return np.concatenate(rows)


def check_utf8(path: str | os.PathLike) -> None:
    """Raises `ValueError` for a path that a runtime in C++ cannot be given."""
    if not is_utf8(os.fspath(path)):
        raise ValueError(f"{path} cannot be loaded: its name is not UTF-8. Rename it")


def square_side(name: str, shape: Sequence) -> tuple[int, bool]:
    """Returns an input's side in pixels and whether its channels come first."""
    for channels_first, order in ((False, (3, 1, 2)), (True, (1, 2, 3))):
        if len(shape) == 4:
            channels, height, width = (shape[k] for k in order)
            if channels == 3 and height == width and isinstance(height, int):
                return height, channels_first
    raise ValueError(
        f"{name} must take square RGB images of a fixed size, (n, size, size, 3) or "
        f"(n, 3, size, size). Received: input {tuple(shape)}"
    )


def check_outputs(name: str, outputs: Mapping[str, Sequence]) -> str:
    """Returns the name of the output "embedding", or of the only one of vectors."""
    fit = [
        output
        for output, shape in outputs.items()
        if len(shape) == 2 and isinstance(shape[1], int)
    ]
    # Beside the embedding some return its norm.
    vectors = [output for output in fit if outputs[output][1] > 1]
    for chosen in (["embedding"] if "embedding" in fit else [], fit, vectors):
        if len(chosen) == 1:
            return chosen[0]
    raise ValueError(
        f"{name} must have one output (n, dim) of more than one number, or one of that "
        f"shape named 'embedding'. Received: {outputs}"
    )


def in_traced_batches(
    function: Callable, images: tf.Tensor, size: int | None
) -> tf.Tensor:
    """Calls a function of exactly `size` images, or any for None, in TensorFlow."""
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
    # Keras has the cause between two listings of all that the model is made of.
    reason = reason.rpartition("Exception encountered: ")[2]
    reason = reason.partition(" Full object config:")[0]
    # What others raise may be pages.
    more = "..." if len(reason) > 300 else ""
    return ValueError(f"{path} cannot be loaded: {reason[:300]}{more}")


def content_hash(path: str | os.PathLike, *settings: float | str) -> str:
    """Hashes the bytes of a file, or of all files below a folder, and settings."""
    path = pathlib.Path(path)
    digest = hashlib.sha256(repr(settings).encode())
    below = filter(pathlib.Path.is_file, path.rglob("*"))
    for file in sorted(below) if path.is_dir() else [path]:
        digest.update(os.fsencode(f"{file.relative_to(path)}\0"))
        digest.update(file.read_bytes())
    return digest.hexdigest()
