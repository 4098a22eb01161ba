"""What a page shows of one evaluated set."""

from __future__ import annotations

import base64
import dataclasses
import io
from typing import Any

import numpy as np
from PIL import Image

from ekd_tf import metrics
from ekd_tf.data import evaluation_batches
from ekd_tf.evaluation import Calibration
from ekd_tf.evaluation import LabelledEvaluation
from ekd_tf.evaluation import Models
from ekd_tf.evaluation import PairSetEvaluation
from ekd_tf.evaluation import Result
from ekd_tf.evaluation import measurable_curve
from ekd_tf.evaluation.allpairs import PairBlocks
from ekd_tf.evaluation.embed import add_views
from ekd_tf.metrics import format_fpr
from ekd_tf.page.columns import Attributes
from ekd_tf.page.columns import Column
from ekd_tf.page.columns import quality_columns
from ekd_tf.page.counts import STEP
from ekd_tf.page.counts import GridCounts
from ekd_tf.page.counts import Pairs
from ekd_tf.page.counts import SliceCounts
from ekd_tf.page.counts import Units
from ekd_tf.page.counts import given_pairs
from ekd_tf.page.counts import labelled_pairs

# FPRs of the points of a curve, 40 a decade.
_FPRS = 10.0 ** -(np.arange(240, -1, -1) / 40)
# Pairs are shown near so many thresholds, of each kind so many, as pictures allow.
_STOPS, _EACH = 80, 2
# Identities of the lowest TPRs and as many of the highest FPRs, at each target FPR.
_IDENTITIES = 25
# Side in pixels and quality of the pictures of pairs.
_SIDE, _QUALITY = 64, 72


def set_section(
    evaluation: Any,
    models: Models,
    result: Result,
    attributes: Attributes | None = None,
    calibration: Calibration | None = None,
    image_bytes: int = 0,
) -> dict:
    """Returns what the page shows of a set, as JSON can hold it.

    Args:
        evaluation, models, result: What was evaluated, by what, and what came of it.
            Of other protocols than verification it has the text alone.
        attributes: A user's columns to slice by.
        calibration: Of the student's own file.
        image_bytes: The most that pictures of pairs may take; 0: none.
    """
    section = {"name": result.name, "text": result.report()}
    if not isinstance(evaluation, (LabelledEvaluation, PairSetEvaluation)):
        return section
    source, report = evaluation.source, result.student
    columns = quality_columns(source)
    columns += attributes.columns(source) if attributes else []
    labels = None
    if isinstance(evaluation, LabelledEvaluation):
        labels = source.labels
        images = np.bincount(labels)[labels]
        columns += filter(None, [Column.from_numbers("images of the identity", images)])

    def pairs_of(embeddings) -> Pairs:
        if isinstance(evaluation, LabelledEvaluation):
            return labelled_pairs(PairBlocks(embeddings, source.labels))
        distances = metrics.squared_distances(embeddings[::2], embeddings[1::2])
        return given_pairs(1 - distances / 2, np.asarray(evaluation.pairs.issame, bool))

    stops = {
        format_fpr(fpr): threshold
        for fpr, threshold in report.thresholds.items()
        if threshold is not None
    }
    units = Units(labels, len(source))
    grid = GridCounts(list(stops.values()), units)
    slices = SliceCounts(list(stops.values()), columns, units)
    for block in pairs_of(models.student(source)):
        grid.add(*block)
        slices.add(*block)
    lowest = result.gap and result.gap.lowest
    critical = _critical(lowest) if lowest else None
    slider = _slider(grid, report, stops)
    return {
        **section,
        "view": models.student.view,
        "models": {
            name: {"figures": report.to_dict(), "curve": _curve(report.roc)}
            for name, report in result.reports.items()
        },
        "slider": slider,
        "critical": critical,
        "slices": [
            {"name": column.name, "rows": _rows(column.names, *counts)}
            for column, counts in zip(columns, slices.column_counts())
        ],
        "identities": labels is not None
        and _identities(source, slices.identity_counts),
        "calibration": calibration
        and _calibrated(calibration, models, source, pairs_of),
        **_pairs(grid, slider, critical, source, image_bytes),
    }


def _curve(roc):
    """Returns `[fprs, tprs]`, the last point of a ROC within each of a grid of FPRs."""
    return [_short(axis) for axis in measurable_curve(roc, _FPRS)]


def _slider(grid, report, stops):
    """Returns counts and intervals between the least and the highest score."""
    above = grid.above()
    total = np.array([[report.num_positive], [report.num_negative]])
    first = max(np.count_nonzero((above == total).all(axis=0)) - 1, 0)
    last = above.shape[1] - np.count_nonzero(~above.any(axis=0)) + 1
    tpr, fpr = map(_intervals, grid.intervals()[:, first:last])
    return {
        "thresholds": grid.thresholds[first:last].tolist(),
        "positives": above[0, first:last].tolist(),
        "negatives": above[1, first:last].tolist(),
        "tpr_intervals": tpr,
        "fpr_intervals": fpr,
        "stops": stops,
        "step": STEP,
    }


def _critical(point):
    """Returns the critical pairs of either direction at an FPR."""
    thresholds = {m: getattr(point, f"{m}_threshold") for m in ("student", "teacher")}
    return {
        "fpr": format_fpr(point.fpr),
        "thresholds": thresholds,
        "counts": point.pairs.counts,
        "rows": [
            dict(kind=kind, right=right, off=-off, pair=pair, cosines=cosines)
            for right, kinds in point.pairs.worst.items()
            for kind, rows in kinds.items()
            for off, pair, cosines in rows
        ],
    }


def _rows(names, counts, intervals=()):
    """Returns of each slice the pairs of both kinds, and TPRs and FPRs at the stops."""
    pairs = counts[0]
    with np.errstate(invalid="ignore"):
        rates = counts[1:] / pairs
    rows = [
        {
            "name": name,
            "pairs": pairs[:, k].tolist(),
            "tpr": _short(rates[:, 0, k]),
            "fpr": _short(rates[:, 1, k]),
        }
        for k, name in enumerate(names)
    ]
    for row, (tpr, fpr) in zip(rows, intervals):
        row.update(tpr_intervals=_intervals(tpr), fpr_intervals=_intervals(fpr))
    return rows


def _identities(source, counts):
    """Returns the rows of identities that stand out at one of the stops."""
    rows = _rows(source.identity_names(), counts)
    chosen = {}
    for rate, sign in (("tpr", 1), ("fpr", -1)):
        for level in range(len(counts) - 1):
            known = [row for row in rows if row[rate][level] is not None]
            known.sort(key=lambda row: sign * row[rate][level])
            chosen.update((row["name"], row) for row in known[:_IDENTITIES])
    return {"of": len(rows), "each": _IDENTITIES, "rows": list(chosen.values())}


def _calibrated(calibration, models, source, pairs_of):
    """Returns a shipped threshold's figures here; None where it is of another view."""
    views = models.student.views(source)
    if calibration.flip and views.shape[1] == 1:
        return None
    views = views if calibration.flip else views[:, :1]
    above, pairs = [0, 0], [0, 0]
    for kind, _, _, scores in pairs_of(add_views(views)):
        pairs[kind] += scores.size
        above[kind] += int(np.count_nonzero(scores > calibration.threshold))
    return {"entry": dataclasses.asdict(calibration), "pairs": pairs, "above": above}


def _pairs(grid, slider, critical, source, image_bytes):
    """Returns the pairs near thresholds, pictures and names of all pairs shown."""
    worst = [row["pair"] for row in critical["rows"]] if critical else []
    near, pictures = [], {}
    if image_bytes:
        # In any order, so that pictures that do not fit are missing evenly.
        ends = slider["thresholds"][0], slider["thresholds"][-1]
        at = np.random.default_rng(0).permutation(np.linspace(*ends, _STOPS))
        near = grid.examples(np.append(list(slider["stops"].values()), at), _EACH)
        rows = np.array([*worst, *(pair[2:] for pair in near)], int).reshape(-1)
        pictures = _thumbnails(source, rows.tolist(), image_bytes)
        near = [pair for pair in near if pair[2] in pictures and pair[3] in pictures]
    rows = np.unique(np.array([*worst, *(pair[2:] for pair in near)], int)).tolist()
    names = {row: source.describe(row) for row in rows}
    return {"pairs": near, "pictures": pictures, "names": names}


def _thumbnails(source, indices, most):
    """Returns JPEGs of 64 x 64 pixels as data URIs, by number of the image.

    The first of `indices`, each once, whose URIs have `most` bytes in all.
    """
    wanted = list(dict.fromkeys(indices))
    uris = {}
    pictures = (
        picture
        for batch in evaluation_batches(source, np.array(wanted, int), _SIDE, 128)
        for picture in batch
    )
    for index, picture in zip(wanted, pictures):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=_QUALITY, optimize=True)
        text = base64.b64encode(file.getvalue()).decode("ascii")
        most -= len(text)
        if most < 0:
            break
        uris[index] = f"data:image/jpeg;base64,{text}"
    return uris


def _intervals(bounds):
    return [None if np.isnan(low) else _short([low, high]) for low, high in bounds]


def _short(values):
    """Returns numbers of five digits, None for what is not finite."""
    return [float(f"{v:.5g}") if np.isfinite(v) else None for v in values]
