"""The report of a comparison: report.md, report.json and pictures."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from ekd_tf.compare.comparison import Comparison
from ekd_tf.evaluation import plot_roc
from ekd_tf.evaluation.tables import format_table
from ekd_tf.files.atomic import write_text
from ekd_tf.page import write_page


def write_comparison(
    folder: str | os.PathLike,
    comparisons: Sequence[Comparison],
    runs: Sequence[dict[str, Any]],
    facts: dict,
) -> str:
    """Writes a comparison's report as Markdown, which it returns, JSON, page, pictures.

    `comparisons` is one per set, `runs` the `GridRun.summary` of all runs, and `facts`
    what the figures depend on, name -> JSON-able value.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts = ["# Comparison of methods"]
    if any(run["state"] != "finished" for run in runs):
        parts.append("Not every run has figures: see the runs below.")
    for comparison in comparisons:
        parts += _section(comparison, folder)
    rows = [
        [run["method"], run["seed"], run["state"]]
        + [n and round(n) for n in (run["images_per_second"], run["seconds"])]
        for run in runs
    ]
    header = ["method", "seed", "state", "images/s", "wall time, s"]
    parts += ["## Runs", format_table(rows, header)]
    notes = [
        f"- {run['method']}, seed {run['seed']}: {run['note']}"
        for run in runs
        if run["note"]
    ]
    if notes:
        parts.append("\n".join(notes))
    parts.append("## How")
    for name, fact in facts.items():
        shown = fact if isinstance(fact, str) else f"`{json.dumps(fact)}`"
        parts.append(f"{name}: {shown}")
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
    write_page(folder, "Comparison of methods", facts, {"comparison": report})
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
    if curves := comparison.curves():
        title, file = f"{name}, {over}", f"{name}_roc.png"
        plot_roc(curves, folder / file, title)
        parts.append(f"![{title}]({file})")
    return parts
