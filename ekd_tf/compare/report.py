"""The report of a comparison: report.md, report.json and pictures."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ekd_tf.compare.comparison import Comparison
from ekd_tf.evaluation import plots
from ekd_tf.evaluation.tables import format_table
from ekd_tf.files.atomic import write_text
from ekd_tf.files.user_text import printable
from ekd_tf.metrics import format_fpr
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
    parts += ["## Runs", _run_table(runs)]
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
        plots.plot_roc(curves, folder / file, title)
        parts.append(f"![{title}]({file})")
    # Of few pairs no FPR can be measured.
    if comparison.fprs:
        title, file = f"{name}: TPR at FPR, {over}", f"{name}_tpr.png"
        _plot_tpr_bars(comparison, folder / file, title)
        parts.append(f"![{title}]({file})")
    return parts


def _run_table(runs):
    rows = [
        [run["method"], run["seed"], run["state"]]
        + [n and round(n) for n in (run["images_per_second"], run["seconds"])]
        for run in runs
    ]
    return format_table(rows, ["method", "seed", "state", "images/s", "wall time, s"])


def _plot_tpr_bars(comparison, path, title):
    """Draws TPR at each FPR: a panel per FPR, a bar per method, a dot per seed."""
    fprs, methods = comparison.fprs, list(comparison.methods)
    height = 1.6 + 0.34 * len(methods)
    figure = Figure(
        figsize=(1.6 + 2.3 * len(fprs), height), dpi=100, layout="constrained"
    )
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(1, len(fprs), sharey=True, squeeze=False)[0]
    for axes, fpr in zip(panels, fprs):
        for row, method in enumerate(methods):
            spread = comparison.tpr(method, fpr)
            if spread is None:
                axes.annotate("no figure", (0.02, row), va="center", fontsize=8)
            else:
                color = plots.COLORS[1 if method != comparison.baseline else 5]
                _bar(axes, row, spread, color)
        teacher = comparison.tpr("teacher", fpr)
        if teacher is not None:
            axes.axvline(100 * teacher.mean, color=plots.COLORS[0], linestyle="--")
        axes.set_title(f"FPR {format_fpr(fpr)}", fontsize=10)
        axes.grid(True, axis="x", color="0.85", linewidth=0.8)
        axes.set_axisbelow(True)
        spreads = [comparison.tpr(name, fpr) for name in ("teacher", *methods)]
        highest = max([0.01, *(spread.high for spread in spreads if spread)])
        # Room for the figure behind the longest bar.
        axes.set_xlim(0, 1.3 * 100 * highest)
        axes.set_ylim(len(methods) - 0.4, -0.6)
    panels[0].set_yticks(range(len(methods)), methods)
    figure.supxlabel(
        "TPR in %: bar mean, dots seeds"
        + (", dashed line teacher" * bool(comparison.teacher)),
        fontsize=10,
    )
    figure.suptitle(printable(title), fontsize=12)
    plots.render(figure, path)


def _bar(axes, row, spread, color):
    mean = 100 * spread.mean
    axes.barh(row, mean, height=0.7, color=color, alpha=0.45)
    axes.plot([100 * spread.low, 100 * spread.high], [row, row], color="black")
    axes.plot(
        [100 * value for value in spread.values],
        [row] * len(spread.values),
        linestyle="none",
        marker="o",
        markersize=4,
        markerfacecolor="white",
        markeredgecolor="black",
    )
    axes.annotate(
        f"{mean:.1f}",
        (100 * spread.high, row),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
    )
