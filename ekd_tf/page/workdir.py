"""What a page shows of a run's folder: curves, reports, thresholds and exports."""

from __future__ import annotations

import json
import os
import pathlib
import re
from typing import Any

from absl import logging

from ekd_tf.evaluation.calibration import CARD_FILE
from ekd_tf.evaluation.calibration import read_card

# Of a longer series every n-th point and the last are drawn.
_MOST_POINTS = 400
# Title, unit, pattern of the metrics, whose groups name the line.
_CHARTS = (
    ("What is minimised", "loss", r"(loss)"),
    ("Losses, times their weights", "loss", r"loss/(.+)"),
    ("Thresholds of both models", "cosine", r"((?:.+/)?)threshold/(.+)"),
    ("TPR of the batch", "TPR", r"((?:.+/)?)batch_tpr/(.+)"),
    ("Critical pairs of the batch", "pairs", r"((?:.+/)?)critical/([^/]+)"),
    ("Learning rate", "learning rate", r"(learning_rate)"),
    ("TPR on evaluation sets", "TPR", r"(.+/tpr_at_fpr_.+)"),
)
_FIGURES = ("kind", "size_bytes", "parity", "verification", "median_ms", "p95_ms")


def deployment(model_file: str | os.PathLike) -> dict:
    """Returns calibrations and exports of a model for the page; JSON-able.

    "calibrations" has the entries of the cards of the model and of its exports, by
    file; "exports" the figures of all artefacts, from the cards or, where there is
    none, the run's `reports/export*.json`.
    """
    folder = pathlib.Path(model_file).parent
    calibrations, exports = {}, []
    cards = [folder / CARD_FILE, *sorted(folder.glob(f"export/*/*/{CARD_FILE}"))]
    for path in filter(pathlib.Path.is_file, cards):
        try:
            card = read_card(path)
        except ValueError as error:
            logging.warning("The page is without one card: %s", error)
            continue
        where = path.parent.relative_to(folder)
        for name, entry in card.get("calibration", {}).items():
            calibrations[(where / name).as_posix()] = entry
        exports += [card["metrics"]] if "metrics" in card else []
    if not exports:
        files = sorted(folder.glob("reports/export*.json"))
        exports = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return {
        "calibrations": calibrations,
        "exports": [
            {
                "name": f"{export['name']}, version {export['version']}",
                "artefacts": [
                    {figure: artefact.get(figure) for figure in _FIGURES}
                    for artefact in export["artefacts"]
                ],
            }
            for export in exports
            if "artefacts" in export
        ],
    }


def run_content(workdir: str | os.PathLike) -> dict:
    """Returns what the page shows of a run, JSON-able.

    Raises `ValueError` where the folder holds no metrics.
    """
    workdir = pathlib.Path(workdir)
    file = workdir / "metrics.jsonl"
    if not file.is_file():
        raise ValueError(f"{workdir} is not the workdir of a run: no metrics.jsonl")
    series: dict[str, tuple[list, list]] = {}
    # The last line of a run that is still writing may be cut.
    for text in file.read_text(encoding="utf-8").splitlines(True):
        line = json.loads(text) if text.endswith("\n") else {}
        step = line.pop("step", None)
        for name, value in line.items():
            if value is not None:
                steps, values = series.setdefault(name, ([], []))
                steps.append(step)
                values.append(value)
    curves = [_chart(*chart, series) for chart in _CHARTS]
    return {
        "curves": [chart for chart in curves if chart["lines"]],
        "reports": _reports(workdir / "reports"),
        "deployment": deployment(workdir / "model.keras"),
    }


def _chart(title, unit, pattern, series):
    lines = []
    for name, (steps, values) in series.items():
        match = re.fullmatch(pattern, name)
        if match:
            every = -(-len(steps) // _MOST_POINTS)
            keep = sorted({*range(0, len(steps), every), len(steps) - 1})
            points = [[steps[k], float(f"{values[k]:.6g}")] for k in keep]
            lines.append(
                {"name": "".join(match.groups()), "points": points, "every": every}
            )
    return {"title": title, "unit": unit, "lines": lines}


def _reports(folder):
    """Returns set -> model -> figures of the last evaluations by verification."""
    reports: dict[str, Any] = {}
    for file in sorted(folder.glob("*.json")):
        document = json.loads(file.read_text(encoding="utf-8"))
        for name in ("teacher", "student", "baseline"):
            entry = document.get(name) or {}
            # Given pairs have two reports, with the mirror image first.
            figures = entry.get("flip") or entry.get("plain") or entry
            if isinstance(figures, dict) and "accuracy_mean" in figures:
                reports.setdefault(file.stem, {})[name] = {"figures": figures}
    return reports
