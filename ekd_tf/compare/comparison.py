"""Several students of one teacher: means over seeds, shares of the gap, the report."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import statistics
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ekd_tf.evaluation import LabelledEvaluation
from ekd_tf.evaluation import Models
from ekd_tf.evaluation import PairSetEvaluation
from ekd_tf.evaluation import SourceEmbedder
from ekd_tf.evaluation import VerificationReport
from ekd_tf.evaluation import measurable_curve
from ekd_tf.evaluation import plots
from ekd_tf.evaluation import verification
from ekd_tf.evaluation.gap import closed_share
from ekd_tf.evaluation.tables import format_table
from ekd_tf.files.atomic import write_text
from ekd_tf.files.user_text import printable
from ekd_tf.metrics import format_fpr
from ekd_tf.metrics.roc import tpr_within
from ekd_tf.page import write_page
from ekd_tf.run.workdir import read_json

# FPRs at which curves of several runs are averaged: 20 a decade, decades exact.
_GRID = np.array([10.0 ** -(k / 20) for k in range(120, -1, -1)])
# Fewer say nothing about a standard deviation.
_LEAST_FOR_SD = 3


@dataclasses.dataclass(frozen=True)
class Spread:
    """One figure over seeds, of which there is at least one."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """Returns the spread of the values that are not None; None if there is none."""
        known = tuple(float(value) for value in values if value is not None)
        return cls(known) if known else None

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    @property
    def sd(self) -> float | None:
        """Sample standard deviation (n - 1); None of fewer than three values."""
        if len(self.values) < _LEAST_FOR_SD:
            return None
        return statistics.stdev(self.values)

    def text(self) -> str:
        """Returns mean, range and, of three or more, deviation, in %."""
        text = f"{100 * self.mean:.1f}"
        if self.low == self.high:
            return text
        sd = "" if self.sd is None else f"; sd {100 * self.sd:.1f}"
        return f"{text} ({100 * self.low:.1f}..{100 * self.high:.1f}{sd})"

    def to_dict(self) -> dict:
        names = ("mean", "low", "high", "sd")
        values = {name: getattr(self, name) for name in names}
        return {**values, "values": list(self.values)}


@dataclasses.dataclass(frozen=True)
class RunFigures:
    """What one model reached on one set.

    `tpr` is FPR -> TPR, None where the FPR is not measurable; `curve` `(fpr, tpr)` on a
    grid of 20 FPRs a decade, from the lowest that is measurable to 1.
    """

    accuracy: float
    tpr: dict[float, float | None]
    curve: tuple[tuple[float, ...], tuple[float, ...]]

    @classmethod
    def of(cls, report: VerificationReport) -> RunFigures:
        """Takes the figures of a report and samples its ROC curve."""
        fpr, tpr = measurable_curve(report.roc, _GRID)
        sampled = tuple(fpr.tolist()), tuple(tpr.tolist())
        return cls(report.accuracy_mean, dict(report.tpr), sampled)

    def to_dict(self) -> dict:
        """Returns what `from_dict` takes, as JSON can hold it."""
        return {
            "accuracy": self.accuracy,
            "tpr": {repr(fpr): tpr for fpr, tpr in self.tpr.items()},
            "curve": [list(axis) for axis in self.curve],
        }

    @classmethod
    def from_dict(cls, values: dict) -> RunFigures:
        """Reads what `to_dict` wrote."""
        tpr = {float(fpr): tpr for fpr, tpr in values["tpr"].items()}
        fprs, tprs = values["curve"]
        return cls(values["accuracy"], tpr, (tuple(fprs), tuple(tprs)))


class Comparison:
    """Figures of all methods and seeds on one set.

    Args:
        name: The set's.
        methods: Method -> seed -> `RunFigures`, in the order they are listed. A method
            may lack seeds, or have none.
        teacher: Seed -> `RunFigures` of the teacher on the images of that seed.
        baseline: The method without a teacher.

    `not_measurable` is a sentence that names the FPRs no run could measure, or none.
    """

    def __init__(
        self,
        name: str,
        methods: Mapping[str, Mapping[int, RunFigures]],
        teacher: Mapping[int, RunFigures] | None = None,
        baseline: str = "alone",
    ):
        if not re.fullmatch(r"[\w. -]+", name) or "teacher" in methods:
            raise ValueError(
                "`name`, which files are named by, must be of letters, digits, ., _, - "
                "and spaces, and no method may be called teacher. Received: "
                f"{name=}, methods={list(methods)}"
            )
        self.name = name
        self.methods = {method: dict(runs) for method, runs in methods.items()}
        self.teacher = dict(teacher or {})
        self.baseline = baseline
        every = (self.teacher, *self.methods.values())
        runs = [run for by_seed in every for run in by_seed.values()]
        first = runs[0].tpr if runs else {}
        # In the order of the first, the FPRs that any run could measure.
        self.fprs = [
            fpr for fpr in first if any(run.tpr.get(fpr) is not None for run in runs)
        ]
        missing = {fpr: None for fpr in first if fpr not in self.fprs}
        self.not_measurable = verification.not_measurable(missing)

    def accuracy(self, method: str) -> Spread | None:
        return Spread.of(run.accuracy for run in self._runs(method).values())

    def tpr(self, method: str, fpr: float) -> Spread | None:
        """Returns a method's TPRs at an FPR over seeds; "teacher" is one too."""
        return Spread.of(run.tpr.get(fpr) for run in self._runs(method).values())

    def closed(self, method: str, fpr: float) -> Spread | None:
        """Returns the shares of the gap that a method closes, seed by seed.

        `(method - baseline) / (teacher - baseline)`. A seed has none where one of the
        three is missing or the baseline is not below the teacher.
        """
        alone = self._runs(self.baseline)
        return Spread.of(
            closed_share(
                *(r.tpr.get(fpr) for r in (run, alone[seed], self.teacher[seed]))
            )
            for seed, run in self._runs(method).items()
            if seed in alone and seed in self.teacher
        )

    def curves(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Returns the mean ROC curve of the teacher and of each method.

        TPRs of the seeds are averaged at each FPR that all of them can measure.
        """
        by_method = {}
        for method in self._names():
            curves = [run.curve for run in self._runs(method).values()]
            if curves:
                fprs = max((fpr for fpr, _ in curves), key=lambda fpr: fpr[0])
                tprs = [tpr_within(curve, np.array(fprs)) for curve in curves]
                by_method[method] = np.array(fprs), np.mean(tprs, axis=0)
        return by_method

    def to_table(self) -> str:
        """Returns accuracy and TPR at each FPR as a Markdown table, in %."""
        rows = []
        for method in self._names():
            figures = [self.accuracy(method)]
            figures += [self.tpr(method, fpr) for fpr in self.fprs]
            seeds = len(self._runs(method))
            rows.append([method, seeds, *(each and each.text() for each in figures)])
        fprs = [f"TPR@{format_fpr(fpr)}" for fpr in self.fprs]
        return format_table(rows, ["method", "seeds", "accuracy", *fprs])

    def closed_table(self) -> str | None:
        """Returns the shares of the gap closed, in %; None where there is none."""
        rows = [
            [method, *(self._closed_text(method, fpr) for fpr in self.fprs)]
            for method in self.methods
            if method != self.baseline
        ]
        if all(cell is None for row in rows for cell in row[1:]):
            return None
        fprs = [f"at {format_fpr(fpr)}" for fpr in self.fprs]
        return format_table(rows, ["gap closed by", *fprs])

    def to_dict(self) -> dict:
        """Returns everything as JSON can hold it, FPRs spelled as `1e-3`."""
        curves = self.curves()
        return {
            method: {
                "seeds": sorted(self._runs(method)),
                "accuracy": _dict(self.accuracy(method)),
                "tpr": self._by_fpr(self.tpr, method),
                "closed": self._by_fpr(self.closed, method),
                "curve": [a.tolist() for a in curves.get(method, ())],
            }
            for method in self._names()
        }

    def _names(self):
        return [*(["teacher"] if self.teacher else []), *self.methods]

    def _runs(self, method):
        return self.teacher if method == "teacher" else self.methods.get(method, {})

    def _closed_text(self, method, fpr):
        """Returns a share in %, and of how many seeds where some have none."""
        closed, seeds = self.closed(method, fpr), len(self._runs(method))
        if closed is None or len(closed.values) == seeds:
            return closed and closed.text()
        return f"{closed.text()}, {len(closed.values)} of {seeds} seeds"

    def _by_fpr(self, figure, method):
        return {format_fpr(fpr): _dict(figure(method, fpr)) for fpr in self.fprs}


def _dict(spread):
    return spread and spread.to_dict()


def kept_figures(
    path: str | os.PathLike,
    fingerprint: str,
    open_model: Callable[[], SourceEmbedder],
    evaluations: Sequence[LabelledEvaluation | PairSetEvaluation],
) -> dict[str, RunFigures]:
    """Evaluates a model on sets, or reads what an earlier call found; by set's name.

    The JSON file `path` keeps figures by the fingerprints of model and set, and by
    what counts as measurable.
    """
    path = pathlib.Path(path)
    kept = read_json(path, "hold figures") if path.is_file() else {}
    by_set, models, least = {}, None, verification.MIN_NEGATIVES
    for evaluation in evaluations:
        key = f"{fingerprint} {evaluation.fingerprint} from {least}"
        if key not in kept:
            models = models or Models(open_model())
            kept[key] = RunFigures.of(evaluation(models).student).to_dict()
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(kept) + "\n")
        by_set[evaluation.name] = RunFigures.from_dict(kept[key])
    return by_set


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
        "not_measurable": {c.name: c.not_measurable for c in comparisons},
        "sets": {c.name: c.to_dict() for c in comparisons},
    }
    write_text(folder / "report.json", json.dumps(report, indent=2) + "\n")
    write_text(folder / "report.md", text)
    write_page(folder, "Comparison of methods", facts, {"comparison": report})
    return text


def _section(comparison, folder):
    name = comparison.name
    seeds = max(len(runs) for runs in comparison.methods.values())
    over, spread = "one seed", ""
    if seeds > 1:
        over, spread = f"mean of {seeds} seeds", ", in brackets the lowest and highest"
    parts = [
        f"## {name}",
        f"In %, {over}{spread}.",
        comparison.to_table(),
        *comparison.not_measurable,
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
    if curves := comparison.curves():
        title, file = f"{name}, {over}", f"{name}_roc.png"
        plots.plot_roc(curves, folder / file, title)
        parts.append(f"![{title}]({file})")
    # Of few pairs no FPR can be measured.
    if comparison.fprs:
        title, file = f"{name}: TPR in %, {over}", f"{name}_tpr.png"
        _plot_tpr(comparison, folder / file, title, seeds)
        parts.append(f"![{title}]({file})")
    return parts


def _plot_tpr(comparison, path, title, seeds):
    """Draws a panel for each FPR, with a bar and a line from lowest to highest seed.

    The teacher is named alone: its bar would squeeze all others together.
    """
    fprs, methods = comparison.fprs, list(comparison.methods)
    size = 1.6 + 2.3 * len(fprs), 1.4 + 0.3 * len(methods)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(1, len(fprs), sharey=True, squeeze=False)[0]
    colors = [plots.COLORS[5 if m == comparison.baseline else 1] for m in methods]
    for axes, fpr in zip(panels, fprs):
        spreads = [
            comparison.tpr(method, fpr) or Spread((np.nan,)) for method in methods
        ]
        means = np.array([100 * spread.mean for spread in spreads])
        ends = 100 * np.array([(spread.low, spread.high) for spread in spreads]).T
        ranges = np.abs(ends - means)
        bars = axes.barh(methods, means, xerr=ranges, color=colors, alpha=0.5)
        axes.bar_label(bars, fmt="%.1f", padding=4, fontsize=9)
        teacher = comparison.tpr("teacher", fpr)
        teacher_tpr = f", teacher {100 * teacher.mean:.1f}" if teacher else ""
        axes.set_title(f"FPR {format_fpr(fpr)}{teacher_tpr}", fontsize=10)
        axes.margins(x=0.3)
    panels[0].invert_yaxis()
    figure.suptitle(printable(title), fontsize=12)
    if seeds > 1:
        figure.supxlabel("lines from the lowest to the highest seed", fontsize=9)
    plots.render(figure, path)
