"""Pictures of ROC curves and similarities, for TensorBoard and as PNG files.

Figures are made with matplotlib's objects and the Agg canvas: no display, and no
state shared with a caller who uses pyplot. Curves differ in dashes and markers as
well as in colour, so they can be told apart in black and white.
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


def plot_roc(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    path: str | os.PathLike | None = None,
    title: str = "",
) -> np.ndarray:
    """Draws TPR over FPR, FPR on a logarithmic axis.

    Args:
        curves: Name -> `(fpr, tpr)`, arrays that rise, as `metrics.roc_curve`
            returns them.
        path: Where to write a PNG too, or None.
        title: Above the axes.

    Returns:
        Uint8 array `(height, width, 3)`, RGB.

    Raises:
        ValueError: There is no curve, or one has no or unequal points.
    """
    return render(roc_figure(curves, title), path)


def plot_similarities(
    positive_scores: np.ndarray,
    negative_scores: np.ndarray,
    thresholds: Mapping[float, float | None],
    path: str | os.PathLike | None = None,
    title: str = "",
) -> np.ndarray:
    """Draws histograms of both kinds of pairs with the thresholds at FPRs.

    Args:
        positive_scores: Float array, cosines of positive pairs, or `(values, counts)`:
            two arrays, how many pairs there are of each value.
        negative_scores: The same of negative pairs.
        thresholds: FPR -> cosine, as in `VerificationReport`. One that is None (not
            measurable) is left out.
        path: Where to write a PNG too, or None.
        title: Above the axes.

    Returns:
        Uint8 array `(height, width, 3)`, RGB.

    Raises:
        ValueError: There are no positives or no negatives.
    """
    return render(
        similarities_figure(positive_scores, negative_scores, thresholds, title), path
    )


def roc_figure(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str = ""
) -> Figure:
    """Makes the figure of `plot_roc`.

    The axis starts at the lowest decade that any curve resolves, within 1e-6 and
    1e-2. A marker stands at each decade, where TPRs are usually quoted.
    """
    if not curves:
        raise ValueError("`curves` must hold at least one curve. Received: none")
    curves = {name: _check_curve(name, *curve) for name, curve in curves.items()}
    decades = _decades([fpr for fpr, _ in curves.values()])
    figure, axes = new_figure(title)
    lowest = 1.0
    for number, (name, (fpr, tpr)) in enumerate(curves.items()):
        x, y, marked = _with_decades(fpr, tpr, decades)
        lowest = min(lowest, y[0])
        axes.plot(
            x,
            y,
            # Between two points the TPR within an FPR is that of the lower one.
            drawstyle="steps-post",
            markevery=marked,
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
    return figure


def similarities_figure(
    positive_scores: np.ndarray,
    negative_scores: np.ndarray,
    thresholds: Mapping[float, float | None],
    title: str = "",
) -> Figure:
    """Makes the figure of `plot_similarities`.

    Counts are on a logarithmic axis: thresholds at low FPRs lie in tails that a
    linear one would not show.
    """
    scores = {
        "positive pairs": _values_and_counts(positive_scores),
        "negative pairs": _values_and_counts(negative_scores),
    }
    for name, (values, _) in scores.items():
        if not values.size:
            raise ValueError(f"A histogram needs scores. Received: no {name}")
    drawn = {f: float(t) for f, t in sorted(thresholds.items()) if t is not None}
    figure, axes = new_figure(title)
    everything = [*drawn.values()]
    for values, _ in scores.values():
        everything += [float(values.min()), float(values.max())]
    low, high = min(everything), max(everything)
    margin = max(0.02 * (high - low), 0.02)
    edges = np.linspace(low - margin, high + margin, _BINS + 1)
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
    return figure


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


def _check_curve(name, fpr, tpr):
    fpr, tpr = np.asarray(fpr, np.float64), np.asarray(tpr, np.float64)
    if fpr.ndim != 1 or fpr.shape != tpr.shape or not fpr.size:
        raise ValueError(
            "Every curve must be `(fpr, tpr)`, two lists of one length. Received: "
            f"{name!r} with shapes {fpr.shape} and {tpr.shape}"
        )
    return fpr, tpr


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


def _with_decades(fpr, tpr, decades):
    """Cuts a curve at the first decade and inserts the points at all of them.

    Returns:
        `(x, y, indices of the decades)`; y at x is the TPR of the last point whose
        FPR is at most x.
    """
    # Rising from 0 at the axis would draw a wall over it: only the last of the
    # points at or before the axis is kept.
    x = np.unique(np.concatenate([fpr[fpr > decades[0]], decades]))
    last = np.searchsorted(fpr, x, side="right") - 1
    y = np.where(last >= 0, tpr[np.maximum(last, 0)], 0.0)
    return x, y, np.searchsorted(x, decades).tolist()


def render(figure: Figure, path: str | os.PathLike | None) -> np.ndarray:
    """Returns a figure as uint8 `(height, width, 3)`; writes a PNG where told."""
    figure.canvas.draw()
    image = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    if path is not None:
        # Drawn once: a second layout of several axes differs by a rounding.
        Image.fromarray(image).save(path, format="PNG")
    return image
