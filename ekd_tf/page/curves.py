"""The curves and reports of a run, from what it left in its folder."""

from __future__ import annotations

import json
import os
import pathlib
import re
from typing import Any

from ekd_tf.page.deployment import deployment

# Of a longer series every n-th point and the last are drawn.
_MOST_POINTS = 400
# Title, unit, pattern of the metrics; a group of the pattern names the line.
_CHARTS = (
    ("What is minimised", "loss", r"(loss)"),
    ("Losses, times their weights", "loss", r"loss/(.+)"),
    ("Thresholds of both models", "cosine", r"threshold/(.+)"),
    ("TPR of the batch", "TPR", r"batch_tpr/(.+)"),
    ("Critical pairs of the batch", "pairs", r"critical/([^/]+)"),
    ("Learning rate", "learning rate", r"(learning_rate)"),
    ("TPR on evaluation sets", "TPR", r"(.+/tpr_at_fpr_.+)"),
)


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
            lines.append({"name": match[1], "points": points, "every": every})
    return {"title": title, "unit": unit, "lines": lines}


def _reports(folder):
    """Returns set -> model -> figures of the last evaluations by verification."""
    reports: dict[str, Any] = {}
    for file in sorted(folder.glob("*.json")):
        document = json.loads(file.read_text(encoding="utf-8"))
        for name in ("teacher", "student", "baseline"):
            of_model = document.get(name) or {}
            # Given pairs have two reports, with the mirror image first.
            figures = of_model.get("flip") or of_model.get("plain") or of_model
            if isinstance(figures, dict) and "accuracy_mean" in figures:
                reports.setdefault(file.stem, {})[name] = {"figures": figures}
    return reports
