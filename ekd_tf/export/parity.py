"""The gate: every artefact is reopened and compared before it gets its name."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
import re

import keras
import numpy as np
from absl import logging

from ekd_tf.checks import check_range
from ekd_tf.evaluation import format_table
from ekd_tf.export.precision import as_float32
from ekd_tf.export.precision import half_precision_layers
from ekd_tf.export.saved_model import SavedModelEmbedder
from ekd_tf.export.saved_model import check_images
from ekd_tf.export.saved_model import check_student
from ekd_tf.export.saved_model import write_saved_model
from ekd_tf.export.staging import free_version
from ekd_tf.export.staging import staged
from ekd_tf.export.tflite import PRECISIONS
from ekd_tf.export.tflite import TFLiteModel
from ekd_tf.export.tflite import convert_tflite

# What half precision may cost between the model as trained and its float32 copy:
# bfloat16 keeps 8 bits, so this tells a wrong copy from rounding and no more.
HALF_PRECISION_COSINE = 0.99


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


@dataclasses.dataclass(frozen=True)
class ArtefactReport:
    """One artefact of an export: where, how large, how close, how fast.

    Attributes:
        kind: "saved_model", "tflite_float32" or "tflite_float16".
        path: Path of the file, or of the SavedModel's directory.
        size_bytes: Size of all its files.
        parity: Figures against the float32 Keras model.
        median_ms: Median latency of one image on one thread; None if not measured.
        p95_ms: 95th percentile of the same.
    """

    kind: str
    path: str
    size_bytes: int
    parity: ParityReport
    median_ms: float | None = None
    p95_ms: float | None = None


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """What `export_student` wrote and measured.

    Attributes:
        name: The student's name.
        version: Int, the version written.
        path: The version's directory.
        rebuild: Figures of the float32 copy against the model as trained.
        artefacts: One `ArtefactReport` each.
    """

    name: str
    version: int
    path: str
    rebuild: ParityReport
    artefacts: tuple[ArtefactReport, ...]

    def to_table(self) -> str:
        """Returns the artefacts as a Markdown table."""
        rows = [
            [
                artefact.kind,
                f"{artefact.size_bytes / 1e6:.2f}",
                f"{artefact.parity.min_cosine:.6f}",
                artefact.median_ms,
                artefact.path,
            ]
            for artefact in self.artefacts
        ]
        header = ["artefact", "MB", "least cosine", "ms per image", "path"]
        return format_table(rows, header)

    def to_dict(self) -> dict:
        """Returns the report as plain values, ready for JSON."""
        return {
            **dataclasses.asdict(self),
            "artefacts": [dataclasses.asdict(artefact) for artefact in self.artefacts],
        }


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
    expected, received = _embed(reference, images), _embed(artefact, images)
    if expected.shape != received.shape:
        raise ValueError(
            f"{name} must return embeddings of the reference's shape {expected.shape}. "
            f"Received: {received.shape}"
        )
    unit = _unit(expected)
    cosine = np.sum(unit * _unit(received), axis=1)
    report = ParityReport(
        min_cosine=float(np.min(cosine)),
        mean_cosine=float(np.mean(cosine)),
        max_abs_diff=float(np.max(np.abs(unit - received))),
        images=len(images),
    )
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


def export_student(
    model: keras.Model,
    directory,
    images,
    name: str,
    version=None,
    minimum_cosine: float = 0.9999,
) -> ExportReport:
    """Exports a student as SavedModel and TFLite and proves that they agree with it.

    One directory holds all that belongs to a version, so that one rename publishes
    it and one removal withdraws it. TF Serving watches `<directory>/<name>` and
    ignores the files it does not know:

        <directory>/<name>/<version>/saved_model.pb, variables/, ...
        <directory>/<name>/<version>/<name>-<version>-float32.tflite
        <directory>/<name>/<version>/<name>-<version>-float16.tflite

    Every artefact is written under a temporary name, reopened from disk and compared
    with the float32 copy of `model`, which was compared with `model` first. When one
    fails, nothing is kept.

    Args:
        model: Keras model as described at `check_student`, of any precision.
        directory: Parent of all exported students; made if missing.
        images: Uint8 `(n, height, width, 3)`, real inputs to compare on.
        name: The student's name: letters, digits, "_", "-" and ".", no "." first.
        version: Int >= 1, or None for one above the highest present.
        minimum_cosine: Float, the gate for every artefact and every image.

    Returns:
        Paths, figures, sizes in bytes and TFLite latency on one thread.

    Raises:
        FileExistsError: The version is there already.
        OSError: The directory cannot be made or written to.
        ParityError: An artefact is below the gate; has the figures.
        ValueError: An argument is wrong, or TFLite cannot take the model.
    """
    if not re.fullmatch(r"[\w-][\w.-]*", name, re.ASCII):
        raise ValueError(
            "`name` must be a directory's name of letters, digits, '_', '-' and '.'. "
            f"Received: name={name!r}"
        )
    images = check_images(images, check_student(model).input_shape[1:])
    parent = pathlib.Path(directory) / name
    final = parent / str(free_version(parent, version))
    version = int(final.name)
    with staged(final) as target, _without_info_logs():
        student = as_float32(model)
        half = half_precision_layers(model)
        rebuild = check_parity(
            model,
            lambda batch: _unit(_embed(student, batch)),
            images,
            HALF_PRECISION_COSINE if half else minimum_cosine,
            name="The float32 copy of the model",
        )
        write_saved_model(student, target)
        artefacts = [
            ArtefactReport(
                kind="saved_model",
                path=str(final),
                size_bytes=sum(
                    f.stat().st_size for f in target.rglob("*") if f.is_file()
                ),
                parity=check_parity(
                    student,
                    SavedModelEmbedder(target),
                    images,
                    minimum_cosine,
                    name="The SavedModel",
                ),
            )
        ]
        for precision in PRECISIONS:
            file = target / f"{name}-{version}-{precision}.tflite"
            file.write_bytes(convert_tflite(target, precision))
            runner = TFLiteModel(file)
            parity = check_parity(
                student,
                runner,
                images,
                minimum_cosine,
                name=f"The {precision} TFLite file",
            )
            median, p95 = runner.latency(images)
            artefacts.append(
                ArtefactReport(
                    kind=f"tflite_{precision}",
                    path=str(final / file.name),
                    size_bytes=file.stat().st_size,
                    parity=parity,
                    median_ms=median,
                    p95_ms=p95,
                )
            )
    return ExportReport(
        name=name,
        version=version,
        path=str(final),
        rebuild=rebuild,
        artefacts=tuple(artefacts),
    )


@contextlib.contextmanager
def _without_info_logs():
    """TensorFlow tells each step of writing a SavedModel, in a dozen lines."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(min(verbosity, logging.WARNING))
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _embed(model, images, batch_size=64):
    """Returns the embeddings in float64, a batch at a time to bound the memory."""
    if isinstance(model, keras.Model):
        call = functools.partial(model, training=False)
    else:
        call = model
    batches = [
        np.asarray(call(images[start : start + batch_size]))
        for start in range(0, len(images), batch_size)
    ]
    return np.concatenate(batches).astype(np.float64)


def _unit(embeddings):
    # A collapsed embedding has no direction: its cosine becomes 0, not NaN.
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.maximum(length, 1e-12)
