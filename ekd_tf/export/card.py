"""The model card beside the artefacts: `card.json` for programs, `README.md` for us."""

from __future__ import annotations

import hashlib
import pathlib
from importlib import metadata

from ekd_tf.data.alignment import ARCFACE_TEMPLATE
from ekd_tf.data.alignment import TEMPLATE_SIZE
from ekd_tf.export.gates import GATED_FPR
from ekd_tf.export.report import ExportReport

CARD_FILE = "card.json"
README_FILE = "README.md"
NOT_GIVEN = "not given"
# What the user alone can know.
FACTS = ("training_data", "licence", "teacher", "method", "command")
_PACKAGES = ("tensorflow", "keras", "numpy", "ekd-tf", "tf2onnx", "ai-edge-litert")


def file_hashes(directory) -> dict[str, str]:
    """Returns the SHA-256 of every file below a directory by relative path."""
    directory = pathlib.Path(directory)
    return {
        file.relative_to(directory).as_posix(): _sha256(file)
        for file in sorted(directory.rglob("*"))
        if file.is_file()
    }


def make_card(
    report: ExportReport,
    input_size: int,
    embedding_dim: int,
    parameters: int,
    hashes: dict[str, str],
    facts: dict,
    calibration: dict | None = None,
) -> dict:
    """Gathers what whoever deploys the student must know, ready for JSON.

    Args:
        report: What was exported and measured.
        input_size: Int, side of the images in pixels.
        embedding_dim: Int.
        parameters: Int, learned numbers.
        hashes: As `file_hashes` returns.
        facts: What only the user knows: some of `FACTS`. Others are "not given".
        calibration: `{"fpr", "threshold", "interval", "pairs", "source", ...}` as
            `ekd_tf.evaluate --calibrate_fpr` writes it, or None. Then the threshold
            found on the images of the gate stands in, and says so.
    """
    if calibration is None and report.keras and report.keras.threshold is not None:
        calibration = {
            "fpr": GATED_FPR,
            "threshold": report.keras.threshold,
            "interval": None,
            "tpr": report.keras.tpr,
            "pairs": report.keras.num_negative,
            "source": "the images of the parity gate",
            "flip": False,
        }
    scale = input_size / TEMPLATE_SIZE
    return {
        "name": report.name,
        "version": report.version,
        "input": {
            "size": input_size,
            "colour_order": "RGB",
            "range": [0, 255],
            "dtype": "uint8",
            "alignment": "ArcFace five points: eyes, nose, corners of the mouth",
            # In pixel centres, so that the half pixel at the edge scales too.
            "template": ((ARCFACE_TEMPLATE + 0.5) * scale - 0.5).round(4).tolist(),
        },
        "embedding": {
            "dim": embedding_dim,
            "normalised": {a.kind: a.kind != "tflite_int8" for a in report.artefacts},
            "similarity": "cosine",
        },
        "parameters": parameters,
        "calibration": calibration,
        **{name: facts.get(name) or NOT_GIVEN for name in FACTS},
        "metrics": report.to_dict(),
        "files": hashes,
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def card_markdown(card: dict, table: str) -> str:
    """Words a card for people.

    Args:
        card: As `make_card` returns.
        table: The report's table.
    """
    size, embedding = card["input"]["size"], card["embedding"]
    raw = [kind for kind, unit in embedding["normalised"].items() if not unit]
    lines = [
        f"# {card['name']}, version {card['version']}",
        "",
        f"Input: {size}x{size} RGB, uint8, 0..255, aligned to the ArcFace template "
        "(points in `card.json`).",
        "",
        f"Output: {embedding['dim']} numbers, compared by cosine; of length 1"
        + (f", but raw in {', '.join(raw)}: divide by the length." if raw else "."),
        "",
        _threshold_sentence(card["calibration"]),
        "",
        f"- parameters: {card['parameters']:,}",
        *(f"- {name.replace('_', ' ')}: {card[name]}" for name in FACTS),
        "",
        "## Measured",
        "",
        "Cosines are with the Keras model on "
        f"{card['metrics']['rebuild']['images']} images. Latency is of one image, "
        "warm, median.",
        "",
        table,
        "",
        *(f"{note}\n" for note in card["metrics"]["notes"]),
        "Hashes of all files and versions of all packages: `card.json`.",
        "",
    ]
    return "\n".join(lines)


def _threshold_sentence(calibration):
    if calibration is None:
        return (
            "Threshold: not calibrated. Find one for your FPR with "
            "`python -m ekd_tf.evaluate --calibrate_fpr=1e-3`."
        )
    interval = calibration.get("interval")
    return (
        f"Threshold: cosine {calibration['threshold']:.4f}"
        + (f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "")
        + f" for FPR {calibration['fpr']:g}, found on {calibration['source']} "
        f"({calibration['pairs']:,} negative pairs). Yours differ: calibrate on them."
    )


def _sha256(file):
    digest = hashlib.sha256()
    with open(file, "rb") as opened:
        for block in iter(lambda: opened.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
