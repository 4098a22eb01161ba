"""What an export wrote and measured, and how close it must come to the Keras model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

from ekd_tf.evaluation import format_table
from ekd_tf.evaluation import verify_embeddings
from ekd_tf.evaluation.allpairs import PairBlocks
from ekd_tf.evaluation.allpairs import count_pairs
from ekd_tf.evaluation.calibration import between_scores

GATED_FPR = 1e-3
# With fewer pairs of a kind the folds of the accuracy would be empty.
_MIN_PAIRS = 10


@dataclasses.dataclass(frozen=True)
class Gate:
    """The least an artefact must reach beside the float32 Keras model."""

    # Of any image, and on the mean.
    min_cosine: float = -1.0
    mean_cosine: float = -1.0
    # How far TPR@1e-3 may lie below the Keras model's.
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
    """How close an artefact's embeddings are to the reference's, over all `images`.

    The cosines are of the two embeddings of one image; `max_abs_diff` is of entries,
    the artefact's as they come and the reference's of length 1.
    """

    min_cosine: float
    mean_cosine: float
    max_abs_diff: float
    images: int


@dataclasses.dataclass(frozen=True)
class Verification:
    """Verification figures of one set of embeddings.

    `tpr` and `threshold`, a cosine, are at `fpr`, None where that is not measurable
    with so many negative pairs.
    """

    accuracy: float
    tpr: float | None
    threshold: float | None
    num_negative: int
    fpr: float = GATED_FPR


@dataclasses.dataclass(frozen=True)
class ArtefactReport:
    """One artefact of an export: where, how large, how close, how fast.

    `kind` is a key of `GATES`, `parity` is against the float32 Keras model. Times are
    of one image, warm, on one thread and, `_2`, on two. `peak_bytes` is explained at
    `peak_memory`, `partitions` at `TFLiteEmbedder`; `ops` are counted by name.
    """

    kind: str
    path: str
    size_bytes: int
    parity: ParityReport
    verification: Verification | None = None
    median_ms: float | None = None
    p95_ms: float | None = None
    median_ms_2: float | None = None
    p95_ms_2: float | None = None
    peak_bytes: int | None = None
    ops: dict[str, int] | None = None
    partitions: int | None = None


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """What `export_student` wrote below `path` and measured.

    `rebuild` are figures of the float32 copy against the model as trained, `keras` is
    the copy's verification, `notes` are sentences on what is worth knowing.
    """

    name: str
    version: int
    path: str
    rebuild: ParityReport
    keras: Verification | None
    artefacts: tuple[ArtefactReport, ...]
    notes: tuple[str, ...] = ()

    def to_table(self) -> str:
        """Returns the artefacts as a Markdown table, the Keras model first."""
        return artefacts_table(self.to_dict())

    def to_dict(self) -> dict:
        """Returns the report as plain values, ready for JSON."""
        return dataclasses.asdict(self)


def artefacts_table(report: dict) -> str:
    """Lays out what `ExportReport.to_dict` returned, the Keras model first."""

    def verified(figures):
        return [figures and figures["accuracy"], figures and figures["tpr"]]

    header = ["artefact", "MB", "least cosine", "mean cosine", "accuracy"]
    header += ["TPR@1e-3", "ms, 1 thread", "p95", "ms, 2 threads", "peak MB"]
    header += ["XNNPACK partitions"]
    rows = [["Keras", *[None] * 3, *verified(report["keras"]), *[None] * 5]]
    for artefact in report["artefacts"]:
        peak = artefact["peak_bytes"]
        rows.append(
            [
                artefact["kind"],
                f"{artefact['size_bytes'] / 1e6:.2f}",
                f"{artefact['parity']['min_cosine']:.6f}",
                f"{artefact['parity']['mean_cosine']:.6f}",
                *verified(artefact["verification"]),
                *(artefact[k] for k in ("median_ms", "p95_ms", "median_ms_2")),
                None if peak is None else f"{peak / 1e6:.1f}",
                artefact["partitions"],
            ]
        )
    return format_table(rows, header)


class ParityError(ValueError):
    """An artefact is further from its reference than allowed; see `report`."""

    def __init__(self, message: str, report: object):
        super().__init__(message)
        self.report = report


def compare(
    expected: np.ndarray, received: np.ndarray, name: str = "artefact"
) -> ParityReport:
    """Compares embeddings `(n, dim)` of the same images; the reference's come first."""
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


def verification(
    embeddings: np.ndarray, labels: np.ndarray | None
) -> Verification | None:
    """Measures how embeddings verify; None without labels or with too few pairs."""
    if labels is None or min(count_pairs(labels)) < _MIN_PAIRS:
        return None
    report = verify_embeddings(embeddings, labels, fprs=(GATED_FPR,))
    threshold = report.thresholds[GATED_FPR]
    if threshold is not None:
        threshold = between_scores(PairBlocks(embeddings, labels), threshold)
    tpr, negatives = report.tpr[GATED_FPR], report.num_negative
    return Verification(report.accuracy_mean, tpr, threshold, negatives)


def failures(
    name: str,
    parity: ParityReport,
    gate: Gate,
    verified: Verification | None = None,
    reference: Verification | None = None,
) -> list[str]:
    """Returns one sentence for each part of the gate that the artefact `name` is below.

    `reference` are the figures of the Keras model.
    """
    parts = [
        ("a cosine of {:g} on every image", gate.min_cosine, parity.min_cosine),
        ("a mean cosine of {:g}", gate.mean_cosine, parity.mean_cosine),
    ]
    tpr, keras_tpr = (each.tpr if each else None for each in (verified, reference))
    if gate.tpr_loss is not None and tpr is not None and keras_tpr is not None:
        what = f"TPR@1e-3 {{:.4f}}, {gate.tpr_loss:g} below the Keras model's"
        # A difference of exactly the allowance must not fail by rounding.
        parts.append((what, keras_tpr - gate.tpr_loss - 1e-9, tpr))
    return [
        f"{name} must reach {what.format(least)}. Received: {value:.6f} over "
        f"{parity.images} images"
        for what, least, value in parts
        # NaN compares false, so that it fails too.
        if not value >= least
    ]


def embed(
    model: Callable,
    images: np.ndarray,
    batch_size: int = 64,
    done: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Returns the embeddings in float64, a batch at a time to bound the memory.

    `model` is a Keras model or an embedder; `done` is called with the number of images
    of each batch.
    """
    # A layer of the network may have training as its default, and hand it on.
    arguments = {"training": False} if isinstance(model, keras.Model) else {}
    batches = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        batches.append(np.asarray(model(batch, **arguments)))
        if done is not None:
            done(len(batch))
    return np.concatenate(batches).astype(np.float64)


def unit(embeddings: np.ndarray) -> np.ndarray:
    """Returns rows of length 1; a row of zeros stays so, and its cosines are 0."""
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.maximum(length, 1e-12)
