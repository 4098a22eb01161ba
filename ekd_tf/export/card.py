"""The model card beside the artefacts: `card.json` for programs, `README.md` for us."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterable
from importlib import metadata

import keras

from ekd_tf.data.alignment import ARCFACE_TEMPLATE
from ekd_tf.data.alignment import TEMPLATE_SIZE
from ekd_tf.evaluation import format_fpr
from ekd_tf.evaluation import format_table
from ekd_tf.evaluation.calibration import CARD_FILE
from ekd_tf.evaluation.calibration import Calibration
from ekd_tf.evaluation.calibration import file_hash
from ekd_tf.evaluation.calibration import model_hash
from ekd_tf.evaluation.calibration import read_card
from ekd_tf.export.parity import GATED_FPR
from ekd_tf.export.parity import ExportReport
from ekd_tf.export.parity import artefacts_table
from ekd_tf.files.model_parts import SAVED_MODEL_FILE
from ekd_tf.files.user_text import KEEP
from ekd_tf.files.user_text import without_folders

NOT_GIVEN = "not given"
# What the model and its figures do not show.
FACTS = ("training_data", "licence", "teacher", "method", "command", "date", "ekd_tf")
# An artefact whose every embedding is so close to the Keras model's has its scores,
# and with them its threshold: a cosine moves by less than 0.003.
_SAME_SCORES = 0.999999
_PACKAGES = ("tensorflow", "keras", "numpy", "ekd-tf", "tf2onnx", "ai-edge-litert")


def file_hashes(directory: str | os.PathLike) -> dict[str, str]:
    """Returns the SHA-256 of every file below a directory by relative path."""
    directory = pathlib.Path(directory)
    return {
        file.relative_to(directory).as_posix(): file_hash(file)
        for file in sorted(directory.rglob("*"))
        if file.is_file()
    }


def make_card(
    report: ExportReport,
    student: keras.Model,
    directory: pathlib.Path,
    facts: dict,
    calibration: Calibration | None = None,
) -> dict:
    """Gathers what one who deploys the student must know, ready for JSON.

    Paths in it are relative to the card, or names.

    Args:
        report, directory: Of what was exported of `student`, and where it lies.
        facts: Some of `FACTS`. Others are "not given".
        calibration: Of the Keras model; it holds for the artefacts that give the same
            scores. None: every artefact has its threshold on the images of the gate.
    """
    calibrations = {}
    for artefact in report.artefacts:
        entry = _calibration(report, artefact, calibration)
        if entry is not None:
            file = _file_of(artefact.kind, artefact.path)
            sha256 = model_hash(directory / file)
            calibrations[file] = {**dataclasses.asdict(entry), "sha256": sha256}
    metrics = report.to_dict()
    for paths in (metrics, *metrics["artefacts"]):
        paths["path"] = os.path.relpath(paths["path"], report.path)
    size = student.input_shape[1]
    scale = size / TEMPLATE_SIZE
    return {
        "name": report.name,
        "version": report.version,
        "input": {
            "size": size,
            "colour_order": "RGB",
            "range": [0, 255],
            "dtype": "uint8",
            "alignment": "ArcFace five points: eyes, nose, corners of the mouth",
            # In pixel centres, so that the half pixel at the edge scales too.
            "template": ((ARCFACE_TEMPLATE + 0.5) * scale - 0.5).round(4).tolist(),
        },
        "embedding": {
            "dim": student.output_shape[1],
            "normalised": {a.kind: a.kind != "tflite_int8" for a in report.artefacts},
            "similarity": "cosine",
        },
        "parameters": student.count_params(),
        "calibration": calibrations,
        **{name: without_folders(str(facts.get(name) or NOT_GIVEN)) for name in FACTS},
        "metrics": metrics,
        "files": file_hashes(directory),
        "versions": installed_versions(_PACKAGES),
    }


def card_markdown(card: dict) -> str:
    """Words a card, as `make_card` returns it, for people."""
    size, embedding, metrics = card["input"]["size"], card["embedding"], card["metrics"]
    raw = [kind for kind, unit in embedding["normalised"].items() if not unit]
    but = f", but raw in {', '.join(raw)}: divide by the length" if raw else ""
    facts = [f"- parameters: {card['parameters']:,}"]
    for name in FACTS:
        words = name if name == "ekd_tf" else name.replace("_", " ")
        facts.append(f"- {words}: {card.get(name, NOT_GIVEN)}")
    paragraphs = [
        f"# {card['name']}, version {card['version']}",
        f"Input: {size}x{size} RGB, uint8, 0..255, aligned to the ArcFace template "
        "(points in `card.json`).",
        f"Output: {embedding['dim']} numbers, compared by cosine; of length 1{but}.",
        *_thresholds(card),
        "\n".join(facts),
        "## Measured",
        f"Cosines are with the Keras model on {metrics['rebuild']['images']} images. "
        "Latency is of one image, warm, median.",
        artefacts_table(metrics),
        *metrics["notes"],
        "Hashes of all files and versions of all packages: `card.json`.",
    ]
    return "\n\n".join(paragraphs) + "\n"


def refresh_readme(card_file: str | os.PathLike) -> None:
    """Writes README.md beside a card anew; nothing for a card that is no export's."""
    card_file = pathlib.Path(card_file)
    card = read_card(card_file)
    if "metrics" in card:
        text = card_markdown(card)
        # Paths need not be UTF-8.
        card_file.with_name("README.md").write_text(text, encoding="utf-8", errors=KEEP)


def exported_files(model_file: str | os.PathLike) -> list[pathlib.Path]:
    """Returns the artefacts exported of a model, or the others of its own export.

    Exports of a `.keras` file lie in `export/<name>/<version>/` beside it.
    """
    model_file = pathlib.Path(model_file)
    own = model_file.with_name(CARD_FILE)
    if own.exists() and "files" in read_card(own):
        cards = [own]
    else:
        cards = sorted(model_file.parent.glob(f"export/*/*/{CARD_FILE}"))
    return [
        card.with_name(name)
        for card in cards
        for name in read_card(card).get("files", {})
        if name == SAVED_MODEL_FILE or name.endswith((".tflite", ".onnx"))
        if name != model_file.name and card.with_name(name).is_file()
    ]


def _file_of(kind, path):
    """Returns the name of the file the card knows an artefact by."""
    return SAVED_MODEL_FILE if kind == "saved_model" else pathlib.Path(path).name


def _calibration(report, artefact, keras_calibration):
    """Returns an artefact's calibration at the time of the export, or None."""
    if keras_calibration is not None:
        closest = min(report.rebuild.min_cosine, artefact.parity.min_cosine)
        return keras_calibration if closest >= _SAME_SCORES else None
    verified = artefact.verification
    if verified is None or verified.threshold is None:
        return None
    return Calibration(
        fpr=GATED_FPR,
        threshold=verified.threshold,
        interval=None,
        tpr=verified.tpr,
        pairs=verified.num_negative,
        source="the images of the parity gate",
    )


def _thresholds(card):
    """Words which cosine accepts a pair, for every artefact."""
    entries = card["calibration"]
    how = "`python -m ekd_tf.evaluate --calibrate_fpr=1e-3 --model=... "
    how += "--eval_sets=NAME:folder:DIR`"
    if not entries:
        return [f"Threshold: not calibrated. Find one for your FPR: {how}."]
    rows = []
    for artefact in card["metrics"]["artefacts"]:
        name = _file_of(artefact["kind"], artefact["path"])
        row = ["not calibrated", *[None] * 5]
        if name in entries:
            entry = Calibration.from_entry(entries[name])
            row = [entry.cosine(), format_fpr(entry.fpr), f"{entry.tpr:.4f}"]
            row += [entry.view, f"{entry.pairs:,}", entry.source]
        rows.append([name, *row])
    header = ["file", "threshold", "FPR", "TPR", "embedding of"]
    header += ["negative pairs", "images"]
    return [
        "Two images show one person where their cosine is above the threshold of the "
        "file in use:",
        format_table(rows, header),
        f"On your images the FPR is another: calibrate on them by {how}.",
    ]


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Returns the versions of packages, "not installed" of one that is not."""
    versions = dict.fromkeys(packages, "not installed")
    for name in versions:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions
