"""The report of a comparison: report.md, report.json and pictures."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from ekd_tf.compare.comparison import Comparison
from ekd_tf.compare.plots import plot_closed
from ekd_tf.compare.plots import plot_tpr_bars
from ekd_tf.evaluation.plots import plot_roc
from ekd_tf.evaluation.tables import format_table
from ekd_tf.files.atomic import write_text


def write_comparison(
    folder: str | os.PathLike,
    comparisons: Sequence[Comparison],
    runs: Sequence[dict[str, Any]],
    facts: dict,
) -> str:
    """Writes a comparison's `report.md`, which it returns, `report.json`, pictures.

    Args:
        folder: Where to.
        comparisons: One per set of images.
        runs: Of all runs, those without figures too, `GridRun.summary`.
        facts: What the figures depend on, name -> JSON-able value: machine, versions,
            common flags. Strings are shown in the report as they are.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts = ["# Comparison of methods"]
    if any(run["state"] != "finished" for run in runs):
        parts.append("Not every run has figures: see the runs below.")
    for comparison in comparisons:
        parts += _section(comparison, folder)
    parts += ["## Runs", _run_table(runs)]
    notes = [
        f"- {run['method']}, seed {run['seed']}: {run['note']}"
        for run in runs
        if run["note"]
    ]
    if notes:
        parts.append("\n".join(notes))
    parts += [
        "## How",
        *(f"{k}: {v if isinstance(v, str) else _code(v)}" for k, v in facts.items()),
    ]
    commands = "\n\n".join(run["command"] for run in runs)
    parts.append(f"Commands, in this order:\n\n```bash\n{commands}\n```")
    text = "\n\n".join(parts) + "\n"
    report = {
        **facts,
        "runs": list(runs),
        "sets": {c.name: c.to_dict() for c in comparisons},
    }
    write_text(folder / "report.json", json.dumps(report, indent=2) + "\n")
    write_text(folder / "report.md", text)
    return text


def _section(comparison, folder):
    name = comparison.name
    parts = [
        f"## {name}",
        "In %: mean over seeds, in brackets the lowest and highest seed.",
        comparison.to_table(),
    ]
    closed = comparison.closed_table()
    if closed is not None:
        baseline = comparison.baseline
        parts += [
            f"Share of the gap between {baseline} and teacher, (method - {baseline}) / "
            f"(teacher - {baseline}) of the runs of one seed, in %: 0 is {baseline}, "
            "100 the teacher.",
            closed,
        ]
    seeds = max(len(runs) for runs in comparison.methods.values())
    over = f"mean of {seeds} seeds" if seeds > 1 else "one seed"
    pictures: list[tuple[str, Callable, Any, str]] = [
        ("roc", plot_roc, comparison.curves(), name),
        ("tpr", plot_tpr_bars, comparison, f"{name}: TPR at FPR"),
    ]
    if closed is not None:
        title = f"{name}: share of the gap closed"
        pictures.append(("closed", plot_closed, comparison, title))
    for what, plot, values, title in pictures:
        if values:
            file, title = f"{name}_{what}.png", f"{title}, {over}"
            plot(values, folder / file, title)
            parts.append(f"![{title}]({file})")
    return parts


def _run_table(runs):
    rows = [
        [run["method"], run["seed"], run["state"]]
        + [n and round(n) for n in (run["images_per_second"], run["seconds"])]
        for run in runs
    ]
    return format_table(rows, ["method", "seed", "state", "images/s", "wall time, s"])


def _code(value):
    return f"`{json.dumps(value)}`"
