"""How close an artefact comes to the Keras model, and how close it must come."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import keras
import numpy as np

from ekd_tf.evaluation import verify_embeddings
from ekd_tf.evaluation.allpairs import PairBlocks
from ekd_tf.evaluation.allpairs import count_pairs
from ekd_tf.evaluation.calibration import between_scores

GATED_FPR = 1e-3
# With fewer pairs of a kind the folds of the accuracy would be empty.
_MIN_PAIRS = 10


@dataclasses.dataclass(frozen=True)
class Gate:
    """The least an artefact must reach beside the float32 Keras model.

    Attributes:
        min_cosine: Float: the least cosine of any image.
        mean_cosine: Float: the least mean of the cosines.
        tpr_loss: Float or None: how far TPR@1e-3 may lie below the Keras model's.
    """

    min_cosine: float = -1.0
    mean_cosine: float = -1.0
    tpr_loss: float | None = None


_QUANTISED = Gate(mean_cosine=0.99, tpr_loss=0.01)
GATES = {
    "saved_model": Gate(min_cosine=0.9999),
    "tflite_float32": Gate(min_cosine=0.9999),
    "tflite_float16": Gate(min_cosine=0.999),
    "tflite_dynamic": _QUANTISED,
    "tflite_int8": _QUANTISED,
    "onnx": Gate(min_cosine=0.9999),
}


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


@dataclasses.dataclass(frozen=True)
class Verification:
    """Verification figures of one set of embeddings.

    Attributes:
        accuracy: Float in [0, 1], ten folds over drawn pairs.
        tpr: Float in [0, 1] at FPR 1e-3 over all pairs, or None: not measurable.
        threshold: Float, cosine at that FPR, or None likewise.
        num_negative: Int, negative pairs behind it.
    """

    accuracy: float
    tpr: float | None
    threshold: float | None
    num_negative: int


class ParityError(ValueError):
    """An artefact is further from its reference than allowed; see `report`."""

    def __init__(self, message: str, report: object):
        super().__init__(message)
        self.report = report


def compare(
    expected: np.ndarray, received: np.ndarray, name: str = "artefact"
) -> ParityReport:
    """Compares embeddings `(n, dim)` of the same images; the reference's come first.

    Raises:
        ValueError: The shapes differ; the message calls the artefact `name`.
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


def verification(embeddings: np.ndarray, labels: np.ndarray) -> Verification | None:
    """Measures how embeddings verify; None without labels or with too few pairs."""
    if labels is None or min(count_pairs(labels)) < _MIN_PAIRS:
        return None
    report = verify_embeddings(embeddings, labels, fprs=(GATED_FPR,))
    threshold = report.thresholds[GATED_FPR]
    if threshold is not None:
        threshold = between_scores(PairBlocks(embeddings, labels), threshold)
    return Verification(
        accuracy=report.accuracy_mean,
        tpr=report.tpr[GATED_FPR],
        threshold=threshold,
        num_negative=report.num_negative,
    )


def failures(
    name: str,
    parity: ParityReport,
    gate: Gate,
    verified: Verification | None = None,
    reference: Verification | None = None,
) -> list[str]:
    """Returns one sentence for each part of the gate an artefact is below.

    Args:
        name: What the sentences call the artefact.
        parity: Its figures.
        gate: The gate.
        verified: Its verification figures, or None: that part is not tested.
        reference: Those of the Keras model.
    """
    sentences = []
    # NaN compares false, so that it fails too.
    if not parity.min_cosine >= gate.min_cosine:
        sentences.append(
            f"{name} must reach a cosine of {gate.min_cosine:g} on every image. "
            f"Received: minimum {parity.min_cosine:.6f} over {parity.images} images"
        )
    if not parity.mean_cosine >= gate.mean_cosine:
        sentences.append(
            f"{name} must reach a mean cosine of {gate.mean_cosine:g}. "
            f"Received: {parity.mean_cosine:.6f} over {parity.images} images"
        )
    measured = verified is not None and None not in (verified.tpr, reference.tpr)
    if gate.tpr_loss is not None and measured:
        least = reference.tpr - gate.tpr_loss
        # A difference of exactly the allowance must not fail by rounding.
        if not verified.tpr >= least - 1e-9:
            sentences.append(
                f"{name} must reach TPR@1e-3 {least:.4f}, {gate.tpr_loss:g} below the "
                f"Keras model's. Received: {verified.tpr:.4f}"
            )
    return sentences


def embed(
    model: keras.Model | Callable, images: np.ndarray, batch_size: int = 64
) -> np.ndarray:
    """Returns the embeddings in float64, a batch at a time to bound the memory."""
    if isinstance(model, keras.Model):
        model = functools.partial(model, training=False)
    batches = [
        np.asarray(model(images[start : start + batch_size]))
        for start in range(0, len(images), batch_size)
    ]
    return np.concatenate(batches).astype(np.float64)


def unit(embeddings: np.ndarray) -> np.ndarray:
    """Returns rows of length 1; a row of zeros stays so, and its cosines are 0."""
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.maximum(length, 1e-12)
