"""Pictures of ROC curves, similarities and critical pairs.

Figures are made with matplotlib's objects and the Agg canvas: no display, and no
state shared with a caller who uses pyplot. Curves differ in dashes and markers as
well as in colour.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ekd_tf.data import Source
from ekd_tf.data import evaluation_batches
from ekd_tf.evaluation.gap import GapPoint
from ekd_tf.metrics import format_fpr

# Okabe and Ito's palette, safe for colour-blind readers, with grey for its yellow, then
# Tol's wine and olive: no two of ten curves share a colour.
COLORS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9"),
    *("#000000", "#E69F00", "#999999", "#882255", "#999933"),
)
_DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)))
_MARKERS = ("o", "s", "^", "D", "v", "x", "P", "*")

_BINS = 100

# All in pixels: side of a face, space a pair takes with its caption, its left margin,
# and the height of a line of text above a group.
_SIDE = 112
_WIDTH, _HEIGHT, _GAP = 2 * _SIDE + 26, _SIDE + 38, 12
_HEADING = 40
_DPI = 100


def plot_roc(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    path: str | os.PathLike | None = None,
    title: str = "",
) -> np.ndarray:
    """Draws TPR over FPR, FPR on a logarithmic axis.

    The axis starts at the lowest decade that any curve resolves, within 1e-6 and 1e-2.
    A marker stands at each decade, where TPRs are usually quoted.

    Args:
        curves: Name -> `(fpr, tpr)`, arrays that rise, at least one.
        path: Where to write a PNG too, or None.
        title: Above the axes.

    Returns:
        Uint8 array `(height, width, 3)`, RGB.
    """
    curves = {n: [np.asarray(a, np.float64) for a in c] for n, c in curves.items()}
    decades = _decades([fpr for fpr, _ in curves.values()])
    figure, axes = new_figure(title)
    lowest = 1.0
    for number, (name, (fpr, tpr)) in enumerate(curves.items()):
        # Rising from 0 at the axis would draw a wall over it: only the last of the
        # points at or before the axis is kept.
        x = np.unique(np.concatenate([fpr[fpr > decades[0]], decades]))
        last = np.searchsorted(fpr, x, side="right") - 1
        y = np.where(last >= 0, tpr[np.maximum(last, 0)], 0.0)
        lowest = min(lowest, y[0])
        axes.plot(
            x,
            y,
            # Between two points the TPR within an FPR is that of the lower one.
            drawstyle="steps-post",
            markevery=np.searchsorted(x, decades).tolist(),
            label=name,
            **line_style(number),
        )
    axes.set_xscale("log")
    axes.set_xlim(decades[0], 1.0)
    bottom = min(np.floor(lowest * 10) / 10, 0.9)
    axes.set_ylim(bottom, 1.0 + 0.02 * (1 - bottom))
    axes.set_xlabel("FPR (false positive rate)")
    axes.set_ylabel("TPR (true positive rate)")
    legend_below(figure, list(curves))
    return render(figure, path)


def plot_similarities(
    positive_scores: np.ndarray,
    negative_scores: np.ndarray,
    thresholds: Mapping[float, float | None],
    path: str | os.PathLike | None = None,
    title: str = "",
) -> np.ndarray:
    """Draws histograms of both kinds of pairs with the thresholds at FPRs.

    Counts are on a logarithmic axis: thresholds at low FPRs lie in tails that a linear
    one would not show.

    Args:
        positive_scores: Float array, cosines of positive pairs, or `(values, counts)`:
            two arrays, how many pairs there are of each value.
        negative_scores: The same of negative pairs.
        thresholds: FPR -> cosine; one that is None is left out.
        path: Where to write a PNG too, or None.
        title: Above the axes.

    Returns:
        Uint8 array `(height, width, 3)`, RGB.
    """
    scores = {
        "positive pairs": _values_and_counts(positive_scores),
        "negative pairs": _values_and_counts(negative_scores),
    }
    drawn = {f: float(t) for f, t in sorted(thresholds.items()) if t is not None}
    everything = np.concatenate([*(v for v, _ in scores.values()), [*drawn.values()]])
    low, high = float(everything.min()), float(everything.max())
    margin = max(0.02 * (high - low), 0.02)
    edges = np.linspace(low - margin, high + margin, _BINS + 1)
    figure, axes = new_figure(title)
    smallest, largest = 1.0, 0.0
    for (name, kind), color, hatch in zip(scores.items(), COLORS, ("", "////")):
        values, counts = kind
        total = int(counts.sum())
        fractions = np.histogram(values, edges, weights=counts)[0] / total
        smallest = min(smallest, fractions[fractions > 0].min())
        largest = max(largest, fractions.max())
        axes.stairs(
            fractions,
            edges,
            fill=True,
            facecolor=color,
            edgecolor=color,
            linewidth=0,
            alpha=0.25,
            hatch=hatch,
        )
        axes.stairs(
            fractions,
            edges,
            color=color,
            linestyle="--" if hatch else "-",
            linewidth=1.6,
            label=f"{name} ({total:,})",
        )
    axes.set_yscale("log")
    axes.set_ylim(min(smallest / 2, largest / 1000), largest * 2)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel("cosine similarity")
    axes.set_ylabel("fraction of pairs per bin")
    _mark_thresholds(axes, drawn, edges[-1] - edges[0])
    legend_below(figure, [f"{name} (1,000,000)" for name in scores])
    return render(figure, path)


def _values_and_counts(scores):
    """Returns the values that occur and how often each does."""
    if isinstance(scores, tuple):
        values, counts = map(np.asarray, scores)
        return values[counts > 0], counts[counts > 0]
    scores = np.asarray(scores)
    return scores, np.ones(scores.shape, np.int64)


def _mark_thresholds(axes, thresholds, width):
    """Draws a line per threshold, its FPR above the axes where there is room."""
    rightmost = []
    for fpr, threshold in sorted(thresholds.items(), key=lambda item: item[1]):
        axes.axvline(threshold, color="black", linewidth=1.0, linestyle=":")
        text = f"FPR {format_fpr(fpr)}"
        half = 0.006 * len(text) * width
        # The lowest row whose last label ends before this one starts.
        row = next(
            (k for k, end in enumerate(rightmost) if end < threshold - half),
            len(rightmost),
        )
        rightmost[row : row + 1] = [threshold + half]
        axes.annotate(
            text,
            (threshold, 1.0),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, 3 + 12 * row),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=9,
        )


def line_style(number: int) -> dict:
    """Returns colour, dashes and marker of curve `number`, for `axes.plot`."""
    # Of two curves of one colour, dashes and markers both differ.
    again = number // len(COLORS)
    return {
        "color": COLORS[number % len(COLORS)],
        "linestyle": _DASHES[number % len(_DASHES)],
        "marker": _MARKERS[(number + 3 * again) % len(_MARKERS)],
        "markersize": 6,
        "linewidth": 1.8,
    }


def new_figure(title: str) -> tuple[Figure, Axes]:
    """Returns a figure of the house's size and its axes with a grid."""
    figure = Figure(figsize=(7.2, 5.2), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(True, which="major", color="0.8", linewidth=0.8)
    axes.grid(True, which="minor", axis="x", color="0.92", linewidth=0.5)
    axes.set_axisbelow(True)
    # The figure's title, not that of the axes, which labels above the axes of a
    # threshold would run into.
    if title:
        figure.suptitle(title, fontsize=12)
    return figure, axes


def legend_below(figure: Figure, names: Sequence[str]) -> None:
    """Puts the legend below the axes, where it can hide no curve."""
    columns = max(1, min(len(names), 84 // (max(map(len, names)) + 10)))
    figure.legend(loc="outside lower center", ncols=columns, handlelength=3.5)


def _decades(fprs):
    """Returns the decades from the lowest that any curve resolves up to 1."""
    resolved = np.concatenate(fprs)
    resolved = resolved[resolved > 0]
    smallest = resolved.min() if resolved.size else 1.0
    # Rounded, or the logarithm of 1e-3 could come out a whole decade too high.
    exponent = np.ceil(np.round(np.log10(smallest), 9))
    lowest = int(np.clip(exponent, -6, -2))
    # Read, not raised: NumPy's powers are off by a bit on some processors, and a point
    # at 1e-4 would then lie beside the decade.
    return np.array([float(f"1e{k}") for k in range(lowest, 1)])


def render(figure: Figure, path: str | os.PathLike | None) -> np.ndarray:
    """Returns a figure as uint8 `(height, width, 3)`; writes a PNG to `path`."""
    figure.canvas.draw()
    image = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    if path is not None:
        # Drawn once: a second layout of several axes differs by a rounding.
        Image.fromarray(image).save(path, format="PNG")
    return image


def contact_sheet(source: Source, point: GapPoint, columns: int = 5) -> np.ndarray:
    """Draws the worst critical pairs of one FPR, positives above negatives.

    Below each pair stand both models' cosines and, by their marks, which accepts it:
    + for accepted, - for rejected.

    Args:
        source: The images.
        point: A measurable operating point with at least one worst pair.
        columns: Int >= 1, pairs side by side.

    Returns:
        Uint8 array `(height, width, 3)`, RGB.
    """
    pairs = [*point.worst_positive, *point.worst_negative]
    rows, where = np.unique(np.array(pairs).reshape(-1), return_inverse=True)
    faces = np.concatenate(list(evaluation_batches(source, rows, _SIDE, 64)))
    faces = faces[where.reshape(-1, 2)]
    captions = [
        f"#{i} and #{j}\n{_verdict('teacher', teacher, point.teacher_threshold)}  "
        f"{_verdict('student', student, point.student_threshold)}"
        for (i, j), (teacher, student) in zip(pairs, point.worst_cosines)
    ]
    positives = len(point.worst_positive)
    parts = [
        ("one identity", slice(0, positives)),
        ("two identities", slice(positives, None)),
    ]
    return _draw(
        [
            (
                f"{title}: {len(faces[part])} of {count:,} critical pairs",
                faces[part],
                captions[part],
            )
            for (title, part), count in zip(
                parts, (point.critical_positive, point.critical_negative)
            )
            if len(faces[part])
        ],
        f"Where the models disagree most at FPR {format_fpr(point.fpr)}; thresholds: "
        f"teacher {point.teacher_threshold:.3f}, student {point.student_threshold:.3f}",
        columns,
    )


def _verdict(model, cosine, threshold):
    return f"{model} {cosine:.3f} {'+' if cosine > threshold else '-'}"


def _draw(parts, title, columns):
    """Draws groups of `(title, faces (k, 2, side, side, 3), captions)`."""
    columns = max(2, min(columns, max(len(captions) for _, _, captions in parts)))
    lines = sum(-(-len(captions) // columns) for _, _, captions in parts)
    width = columns * _WIDTH
    height = lines * _HEIGHT + (len(parts) + 1) * _HEADING
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    canvas = FigureCanvasAgg(figure)

    def write(text, x, y, **style):
        figure.text(x / width, 1 - y / height, text, **style)

    write(title, width / 2, _HEADING / 2, ha="center", va="center", fontsize=11)
    top, placed = _HEADING, []
    for heading, faces, captions in parts:
        write(heading, _GAP, top + _HEADING / 2, va="center", fontsize=10)
        top += _HEADING
        for k, (pair, caption) in enumerate(zip(faces, captions)):
            left, upper = k % columns * _WIDTH + _GAP, top + k // columns * _HEIGHT
            placed += [(pair[0], left, upper), (pair[1], left + _SIDE + 2, upper)]
            middle, below = left + _SIDE + 1, upper + _SIDE + 3
            write(caption, middle, below, ha="center", va="top", fontsize=7)
        top += -(-len(captions) // columns) * _HEIGHT
    canvas.draw()
    sheet = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    # Pixel by pixel, which a plot of images would resample.
    for face, left, upper in placed:
        sheet[upper : upper + _SIDE, left : left + _SIDE] = face
    return sheet
