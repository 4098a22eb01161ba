"""How close an artefact's embeddings are to those of the model it was made of."""

from __future__ import annotations

import dataclasses
import functools

import keras
import numpy as np

from ekd_tf.checks import check_range


@dataclasses.dataclass(frozen=True)
class ParityReport:
    """How close an artefact's embeddings are to the reference's.

    Attributes:
        min_cosine: Smallest cosine between the two embeddings of one image.
        mean_cosine: Mean of these cosines.
        max_abs_diff: Largest absolute difference between an entry of the artefact's
            embedding as it comes and of the reference's of length 1.
        images: Number of images compared.
    """

    min_cosine: float
    mean_cosine: float
    max_abs_diff: float
    images: int


class ParityError(ValueError):
    """An artefact is further from its reference than allowed; see `report`."""

    def __init__(self, message, report):
        super().__init__(message)
        self.report = report


def compare(expected, received, name: str = "artefact") -> ParityReport:
    """Compares embeddings of the same images; see `ParityReport`.

    Args:
        expected: Float array `(n, dim)`, the reference's, of any length.
        received: Float array `(n, dim)`, the artefact's.
        name: What the error calls the artefact.

    Raises:
        ValueError: The shapes differ.
    """
    if expected.shape != received.shape:
        raise ValueError(
            f"{name} must return embeddings of the reference's shape {expected.shape}. "
            f"Received: {received.shape}"
        )
    expected_unit = unit(expected)
    cosine = np.sum(expected_unit * unit(received), axis=1)
    return ParityReport(
        min_cosine=float(np.min(cosine)),
        mean_cosine=float(np.mean(cosine)),
        max_abs_diff=float(np.max(np.abs(expected_unit - received))),
        images=len(expected),
    )


def check_parity(
    reference, artefact, images, minimum_cosine: float = 0.9999, name: str = "artefact"
) -> ParityReport:
    """Compares an artefact's embeddings with a reference's on the same images.

    Args:
        reference: Keras model or callable, images -> embeddings `(n, dim)` of any
            length.
        artefact: Keras model or callable; as exported, embeddings of length 1.
        images: Uint8 `(n, height, width, 3)`, n >= 1. Real ones: the activations of
            noise are not those the student will meet.
        minimum_cosine: Float in [-1, 1], the least cosine any image may have.
        name: What the error calls the artefact.

    Returns:
        The figures, when every cosine is at least `minimum_cosine`.

    Raises:
        ParityError: Some cosine is below, or an embedding is not finite.
    """
    check_range("minimum_cosine", minimum_cosine, low=-1, high=1)
    check_range("len(images)", len(images), low=1)
    report = compare(embed(reference, images), embed(artefact, images), name)
    # NaN compares false, so that it fails too.
    if not report.min_cosine >= minimum_cosine:
        raise ParityError(
            f"{name} must reach a cosine of {minimum_cosine:g} with its reference on "
            f"every image. Received: minimum {report.min_cosine:.6f}, mean "
            f"{report.mean_cosine:.6f}, largest difference {report.max_abs_diff:.2e} "
            f"over {report.images} images",
            report,
        )
    return report


def embed(model, images, batch_size: int = 64) -> np.ndarray:
    """Returns the embeddings in float64, a batch at a time to bound the memory.

    Args:
        model: Keras model or callable, images -> embeddings `(n, dim)`.
        images: Uint8 `(n, height, width, 3)`.
        batch_size: Int >= 1.
    """
    if isinstance(model, keras.Model):
        call = functools.partial(model, training=False)
    else:
        call = model
    batches = [
        np.asarray(call(images[start : start + batch_size]))
        for start in range(0, len(images), batch_size)
    ]
    return np.concatenate(batches).astype(np.float64)


def unit(embeddings: np.ndarray) -> np.ndarray:
    """Returns rows of length 1; rows of zeros stay so."""
    # A collapsed embedding has no direction: its cosine becomes 0, not NaN.
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.maximum(length, 1e-12)
