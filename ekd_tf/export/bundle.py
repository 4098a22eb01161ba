"""All artefacts of a student in one directory, each reopened and compared first."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

import keras
import numpy as np

from ekd_tf.checks import check_choice
from ekd_tf.checks import check_range
from ekd_tf.embedders import OnnxEmbedder
from ekd_tf.embedders import SavedModelEmbedder
from ekd_tf.embedders import TFLiteEmbedder
from ekd_tf.evaluation import Calibration
from ekd_tf.evaluation.calibration import CARD_FILE
from ekd_tf.export import parity
from ekd_tf.export.card import make_card
from ekd_tf.export.card import refresh_readme
from ekd_tf.export.convert import PRECISIONS
from ekd_tf.export.convert import check_representative
from ekd_tf.export.convert import convert_onnx
from ekd_tf.export.convert import convert_tflite
from ekd_tf.export.convert import tflite_ops
from ekd_tf.export.measure import latency
from ekd_tf.export.measure import peak_memory
from ekd_tf.export.saved_model import check_images
from ekd_tf.export.saved_model import check_student
from ekd_tf.export.saved_model import float32_copy
from ekd_tf.export.saved_model import half_precision_layers
from ekd_tf.export.saved_model import write_saved_model

# What half precision may cost between the model as trained and its float32 copy:
# bfloat16 keeps 8 bits, so this tells a wrong copy from rounding and no more.
HALF_PRECISION_COSINE = 0.99
FORMATS = (*PRECISIONS, "onnx")


def export_student(
    model: keras.Model,
    directory: str | os.PathLike,
    images: np.ndarray,
    name: str,
    version: int | None = None,
    minimum_cosine: float | None = None,
    formats: Sequence[str] = ("float32", "float16"),
    labels: np.ndarray | None = None,
    representative: np.ndarray | None = None,
    int8_output: str = "float32",
    facts: dict | None = None,
    calibration: Calibration | None = None,
    progress: Callable | None = None,
) -> parity.ExportReport:
    """Exports a student as SavedModel and more and proves that they agree with it.

    `<directory>/<name>/<version>` holds all that belongs to a version: TF Serving
    ignores the files it does not know. Every artefact is written under a temporary
    name, reopened from disk and compared with the float32 copy of `model`, which was
    compared with `model` first, by `parity.GATES`. When one fails, nothing is kept.

    Args:
        model: Keras model as described at `check_student`, of any precision.
        directory: Parent of all exported students; made if missing.
        images: Uint8 `(n, height, width, 3)`, real inputs to compare on.
        name: The student's name: letters, digits, "_", "-" and ".", no "." first.
        version: Int >= 1, or None for one above the highest present.
        minimum_cosine: The gate for every artefact and every image in place of those.
        formats: Some of `FORMATS`, what to write beside the SavedModel.
        labels: Integers `(n,)`, identities of `images`, to measure verification by.
        representative, int8_output: As for `convert_tflite`.
        facts, calibration: As for `make_card`.
        progress: As for `SourceEmbedder`, of all images through all artefacts.

    Raises:
        FileExistsError: The version is there already.
        ParityError: An artefact is below its gate; has the table and the report.
    """
    if not re.fullmatch(r"[\w-][\w.-]*", name, re.ASCII):
        raise ValueError(
            "`name` must be a directory's name of letters, digits, '_', '-' and '.'. "
            f"Received: name={name!r}"
        )
    for item in formats:
        check_choice("formats", item, FORMATS)
    images = check_images(images, check_student(model).input_shape[1:])
    check_range("len(images)", len(images), low=1)
    if minimum_cosine is not None:
        check_range("minimum_cosine", minimum_cosine, low=-1, high=1)
    if "int8" in formats:
        check_representative(representative)
    parent = pathlib.Path(directory) / name
    version = free_version(parent, version)
    final = parent / str(version)
    with staged(final) as target:
        student, done = float32_copy(model), None
        if progress:
            # The model, its copy, the SavedModel and the formats.
            done = progress("export", (3 + len(formats)) * len(images), "images")
        expected = parity.embed(student, images, done=done)
        received = parity.embed(model, images, done=done)
        rebuild = _check_copy(model, expected, received, minimum_cosine)
        reference = parity.verification(expected, labels)
        artefacts, failed = [], []

        def measure(kind, embedder, path, size, **figures):
            received = parity.embed(embedder, images, done=done)
            if kind == "tflite_int8":
                # It comes raw; what is compared is what a caller makes of it.
                received = parity.unit(received)
            close = parity.compare(expected, received, kind)
            verified = parity.verification(received, labels)
            gate = parity.GATES[kind]
            if minimum_cosine is not None:
                gate = parity.Gate(min_cosine=minimum_cosine)
            failed.extend(parity.failures(kind, close, gate, verified, reference))
            artefacts.append(
                parity.ArtefactReport(kind, str(path), size, close, verified, **figures)
            )

        write_saved_model(student, target)
        size = sum(f.stat().st_size for f in target.rglob("*") if f.is_file())
        measure("saved_model", SavedModelEmbedder(target), final, size)
        for item in formats:
            if item == "onnx":
                kind, ending, content = "onnx", ".onnx", convert_onnx(student)
            else:
                kind, ending = f"tflite_{item}", f"-{item}.tflite"
                given = (representative, int8_output) if item == "int8" else ()
                content = convert_tflite(student, item, *given)
            file = target / f"{name}-{version}{ending}"
            file.write_bytes(content)
            embedder, figures = _time(file, images)
            measure(kind, embedder, final / file.name, len(content), **figures)
        notes = tuple(_notes(artefacts))
        report = parity.ExportReport(
            name, version, str(final), rebuild, reference, tuple(artefacts), notes
        )
        if failed:
            way_out = (
                "Nothing was kept. Train longer; ekd_tf.export_model leaves formats "
                "out by --formats, and takes what there is by --minimum_cosine"
            )
            text = "\n".join([*failed, report.to_table(), way_out])
            raise parity.ParityError(text, report)
        card = make_card(report, student, target, facts or {}, calibration)
        text = json.dumps(card, indent=2) + "\n"
        (target / CARD_FILE).write_text(text, encoding="utf-8")
        refresh_readme(target / CARD_FILE)
    return report


@contextlib.contextmanager
def staged(final: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a path to write a directory to; renames it to `final` after.

    The path lies in a hidden directory beside `final`, so that the rename is atomic
    and a TF Serving that watches the parent never sees it. When the body raises,
    `KeyboardInterrupt` included, that directory is removed.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    aside = tempfile.mkdtemp(".partial", f".{final.name}-", final.parent)
    try:
        # One level below: mkdtemp makes a directory that only its owner can read,
        # and the export is often served by another user.
        target = pathlib.Path(aside) / final.name
        yield target
        os.replace(target, final)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def free_version(directory: pathlib.Path, version: int | None = None) -> int:
    """Returns the version to write below `directory`, which may not exist yet.

    Raises `FileExistsError` where the version asked for is there already.
    """
    names = [path.name for path in directory.glob("*")]
    present = sorted(int(name) for name in names if re.fullmatch("[0-9]+", name))
    if version is None:
        return max(present, default=0) + 1
    check_range("version", version, low=1)
    if version in present:
        raise FileExistsError(
            f"`version` must not exist yet, a served version never changes. Received: "
            f"version={version}; {directory} has {', '.join(map(str, present))}. Leave "
            "`version` out for the next free one."
        )
    return version


def _check_copy(model, expected, received, minimum_cosine):
    """Returns the figures of the float32 copy; raises `ParityError` below its gate."""
    least = minimum_cosine
    if half_precision_layers(model):
        least = HALF_PRECISION_COSINE
    elif least is None:
        least = parity.GATES["saved_model"].min_cosine
    name = "The float32 copy of the model"
    report = parity.compare(received, parity.unit(expected), name)
    for sentence in parity.failures(name, report, parity.Gate(min_cosine=least)):
        raise parity.ParityError(sentence, report)
    return report


def _time(file, images):
    """Opens a TFLite or ONNX file; returns the embedder and what running it takes."""
    is_tflite = file.suffix == ".tflite"
    make = TFLiteEmbedder if is_tflite else OnnxEmbedder
    one, two = (make(file, num_threads=threads) for threads in (1, 2))
    figures = dict(zip(("median_ms", "p95_ms"), latency(one, images)))
    figures |= zip(("median_ms_2", "p95_ms_2"), latency(two, images))
    if is_tflite:
        figures["ops"], figures["peak_bytes"] = tflite_ops(file), peak_memory(file)
        figures["partitions"] = one.partitions
    return one, figures


def _notes(artefacts):
    """Says what of the figures calls for something to be done."""
    for artefact in artefacts:
        if artefact.kind == "tflite_int8" and "PRELU" in artefact.ops:
            yield (
                f"int8 with PReLU runs in {artefact.partitions} pieces, as XNNPACK has "
                "no int8 PReLU. Train with --activation=relu, or swap and fine-tune: "
                "python tools/swap_activation.py"
            )
