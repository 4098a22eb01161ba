"""What an artefact must reach before it gets its name."""

from __future__ import annotations

import dataclasses

import numpy as np

from ekd_tf.evaluation import verify_embeddings
from ekd_tf.evaluation.allpairs import PairBlocks
from ekd_tf.evaluation.allpairs import count_pairs
from ekd_tf.evaluation.calibration import between_scores
from ekd_tf.export.parity import ParityReport

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


def verification(embeddings: np.ndarray, labels) -> Verification | None:
    """Measures how embeddings verify; None without labels or with too few pairs.

    Args:
        embeddings: Float array `(n, dim)`.
        labels: Integers `(n,)`, identities, or None.
    """
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
    kind: str,
    parity: ParityReport,
    found: Verification | None,
    reference: Verification | None,
    gate: Gate,
) -> list[str]:
    """Returns one sentence for each part of the gate an artefact is below.

    Args:
        kind: What the sentences call the artefact.
        parity: Its figures.
        found: Its verification figures, or None: that part is not tested.
        reference: Those of the Keras model.
        gate: The gate.
    """
    said = []
    # NaN compares false, so that it fails too.
    if not parity.min_cosine >= gate.min_cosine:
        said.append(
            f"{kind} must reach a cosine of {gate.min_cosine:g} on every image. "
            f"Received: minimum {parity.min_cosine:.6f} over {parity.images} images"
        )
    if not parity.mean_cosine >= gate.mean_cosine:
        said.append(
            f"{kind} must reach a mean cosine of {gate.mean_cosine:g}. "
            f"Received: {parity.mean_cosine:.6f} over {parity.images} images"
        )
    measured = found is not None and None not in (found.tpr, reference.tpr)
    if gate.tpr_loss is not None and measured:
        least = reference.tpr - gate.tpr_loss
        # A difference of exactly the allowance must not fail by rounding.
        if not found.tpr >= least - 1e-9:
            said.append(
                f"{kind} must reach TPR@1e-3 {least:.4f}, {gate.tpr_loss:g} below the "
                f"Keras model's. Received: {found.tpr:.4f}"
            )
    return said
