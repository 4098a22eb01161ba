"""Pictures of ROC curves, similarities and critical pairs.

Figures are made with matplotlib's objects and the Agg canvas: no display, and no
state shared with a caller who uses pyplot. Curves differ in dashes and markers as
well as in colour.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

from ekd_tf.data import Source
from ekd_tf.data import evaluation_batches
from ekd_tf.evaluation.gap import GapPoint
from ekd_tf.files.user_text import printable
from ekd_tf.metrics import ROC
from ekd_tf.metrics import format_fpr
from ekd_tf.metrics.roc import tpr_within

# Okabe and Ito's palette, safe for colour-blind readers, with grey for its yellow, then
# Tol's wine and olive: ten curves have ten colours.
COLORS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9"),
    *("#000000", "#E69F00", "#999999", "#882255", "#999933"),
)
_DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)))
_MARKERS = ("o", "s", "^", "D", "v", "x", "P", "*")
_BINS = 100
# How much larger letters and lines are in a picture of few curves: TensorBoard shows it
# at half its size.
_ZOOM, _FEW = 1.4, 3

# In pixels: the side of a face, the place of a pair with its caption, the height of a
# line of text above a group, and the margin.
_SIDE, _WIDTH, _HEIGHT, _HEADING, _MARGIN = 112, 2 * 112 + 26, 112 + 42, 32, 12
# TensorBoard shrinks pictures to about 400 pixels of width: two pairs.
_COLUMNS = 2


def plot_roc(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    path: str | os.PathLike | None = None,
    title: str = "",
) -> np.ndarray:
    """Draws TPR over FPR, FPR on a logarithmic axis, with a marker at each decade.

    `curves` are name -> `(fpr, tpr)`, arrays that rise, such as `measurable_curve`
    returns; at least one. Each is drawn from its first point on, the axis from the
    lowest decade that any has, within 1e-6 and 1e-2. Returns uint8 `(height, width,
    3)`, RGB, as all functions here, and writes a PNG to `path`.
    """
    decades = _decades([np.asarray(fpr) for fpr, _ in curves.values()])
    figure, axes = new_figure(title, _ZOOM if len(curves) <= _FEW else 1.0)
    lowest = 1.0
    for number, (name, curve) in enumerate(curves.items()):
        fpr = np.asarray(curve[0])
        # Rising from 0 at the axis would draw a wall over it: only the last of the
        # points at or before the axis is kept.
        marked = decades[decades >= fpr[0] * (1 - 1e-9)]
        x = np.unique(np.concatenate([fpr[fpr > decades[0]], marked]))
        y = tpr_within(curve, x)
        lowest = min(lowest, float(y[0]))
        axes.plot(
            x,
            y,
            # Between two points the TPR within an FPR is that of the lower one.
            drawstyle="steps-post",
            markevery=np.searchsorted(x, marked).tolist(),
            label=name,
            color=COLORS[number % len(COLORS)],
            linestyle=_DASHES[number % len(_DASHES)],
            # Of two curves of one colour, dashes and markers both differ.
            marker=_MARKERS[(number + 3 * (number // len(COLORS))) % len(_MARKERS)],
            markersize=6,
            linewidth=1.8,
        )
    axes.set_xscale("log")
    axes.set_xlim(decades[0], 1.0)
    bottom = min(np.floor(lowest * 10) / 10, 0.9)
    axes.set_ylim(bottom, 1.0 + 0.02 * (1 - bottom))
    axes.set_xlabel("FPR (false positive rate)")
    axes.set_ylabel("TPR (true positive rate)")
    _legend_below(figure)
    return render(figure, path)


def plot_similarities(
    roc: ROC, thresholds: Mapping[float, float | None], title: str = ""
) -> np.ndarray:
    """Draws histograms of both kinds of pairs with the thresholds at FPRs.

    Counts are on a logarithmic axis, or thresholds at low FPRs would lie in tails too
    low to see. Thresholds that are None are left out.
    """
    marks = {f: float(t) for f, t in sorted(thresholds.items()) if t is not None}
    values = roc.thresholds[:-1]
    everything = np.append(values, list(marks.values()))
    margin = max(0.02 * float(np.ptp(everything)), 0.02)
    edges = np.linspace(everything.min() - margin, everything.max() + margin, _BINS + 1)
    figure, axes = new_figure(title, _ZOOM)
    smallest, largest = 1.0, 0.0
    for kind, counts, color, dashes, hatch in (
        ("positive", roc.positives, COLORS[0], "-", ""),
        ("negative", roc.negatives, COLORS[1], "--", "////"),
    ):
        pairs = np.histogram(values, edges, weights=np.diff(counts))[0]
        fractions = pairs / counts[-1]
        smallest = min(smallest, fractions[fractions > 0].min())
        largest = max(largest, fractions.max())
        label = f"{kind} ({counts[-1]:,})"
        axes.stairs(fractions, edges, color=color, ls=dashes, lw=1.6, label=label)
        area = axes.stairs(fractions, edges, fill=True, lw=0, alpha=0.25, hatch=hatch)
        area.set(facecolor=color, edgecolor=color)
    for number, (fpr, threshold) in enumerate(marks.items()):
        label = f"FPR {format_fpr(fpr)}: {threshold:.3f}"
        dashes = _DASHES[number % len(_DASHES)]
        axes.axvline(threshold, color="black", lw=1, ls=dashes, label=label)
    axes.set_yscale("log")
    axes.set_ylim(min(smallest / 2, largest / 1000), largest * 2)
    axes.set_xlim(float(edges[0]), float(edges[-1]))
    axes.set_xlabel("cosine similarity")
    axes.set_ylabel("fraction of pairs per bin")
    _legend_below(figure)
    return render(figure)


def new_figure(title: str, zoom: float = 1.0) -> tuple[Figure, Axes]:
    """Returns a figure of the common size, letters larger by `zoom`, and its axes."""
    figure = Figure((7.2 / zoom, 5.2 / zoom), dpi=100 * zoom, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(True, which="major", color="0.8", linewidth=0.8)
    axes.grid(True, which="minor", axis="x", color="0.92", linewidth=0.5)
    axes.set_axisbelow(True)
    if title:
        figure.suptitle(printable(title), fontsize=12)
    return figure, axes


def _legend_below(figure):
    """Puts the legend below the axes, where it can hide no curve."""
    _, names = figure.axes[0].get_legend_handles_labels()
    letters = int(84 * figure.get_figwidth() / 7.2)
    columns = max(1, min(len(names), letters // (max(map(len, names)) + 10)))
    figure.legend(loc="outside lower center", ncols=columns, handlelength=3.5)


def _decades(fprs):
    """Returns the decades from the lowest that any curve has up to 1."""
    fprs = np.concatenate(fprs)
    smallest = fprs[fprs > 0].min(initial=1.0)
    # Rounded, or the logarithm of 1e-3 could come out a whole decade too high.
    exponent = np.ceil(np.round(np.log10(smallest), 9))
    # Read, not raised: a power may lie a bit beside the decade, and a point at it.
    return np.array([float(f"1e{k}") for k in range(int(np.clip(exponent, -6, -2)), 1)])


def render(figure: Any, path: str | os.PathLike | None = None) -> np.ndarray:
    """Returns a figure as uint8 `(height, width, 3)`; writes a PNG to `path`."""
    figure.canvas.draw()
    image = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    if path is not None:
        # Drawn once: a second layout of several axes differs by a rounding.
        Image.fromarray(image).save(path, format="PNG")
    return image


def contact_sheet(source: Source, point: GapPoint) -> np.ndarray:
    """Shows the worst critical pairs of one FPR, at least one, positives first.

    Below each pair stand both models' cosines, marked + by a model that accepts it and
    - by one that rejects it.
    """
    positive, negative = point.worst_positive or (), point.worst_negative or ()
    pairs = [*positive, *negative]
    batches = evaluation_batches(source, np.array(pairs).reshape(-1), _SIDE, 64)
    faces = np.concatenate(list(batches))
    groups = [
        ("one identity", point.critical_positive, range(len(positive))),
        ("two identities", point.critical_negative, range(len(positive), len(pairs))),
    ]
    groups = [group for group in groups if len(group[2])]
    lines = sum(-(-len(group[2]) // _COLUMNS) for group in groups)
    size = (_COLUMNS * _WIDTH, lines * _HEIGHT + (len(groups) + 2) * _HEADING)
    sheet = Image.new("RGB", size, "white")
    font = ImageFont.load_default(13)
    write = functools.partial(ImageDraw.Draw(sheet).text, fill="black", font=font)
    thresholds: Any = point.teacher_threshold, point.student_threshold
    worst = point.worst_cosines or ()
    title = f"Where the models disagree most at FPR {format_fpr(point.fpr)}.\n"
    title += "Thresholds: teacher {:.3f}, student {:.3f}".format(*thresholds)
    write((_MARGIN, _MARGIN), title)
    top = 2 * _HEADING
    for kind, count, numbers in groups:
        heading = f"{kind}: {len(numbers)} of {count:,} critical pairs"
        write((_MARGIN, top + _MARGIN), heading)
        top += _HEADING
        for place, number in enumerate(numbers):
            left = place % _COLUMNS * _WIDTH + _MARGIN
            upper = top + place // _COLUMNS * _HEIGHT
            for side, face in enumerate(faces[2 * number :][:2]):
                sheet.paste(Image.fromarray(face), (left + side * (_SIDE + 2), upper))
            cosines = zip(("teacher", "student"), worst[number], thresholds)
            verdicts = [f"{m} {c:.3f} {'+' if c > t else '-'}" for m, c, t in cosines]
            caption = "#{} and #{}\n{}  {}".format(*pairs[number], *verdicts)
            write((left, upper + _SIDE + 3), caption)
        top += -(-len(numbers) // _COLUMNS) * _HEIGHT
    return np.asarray(sheet)
