"""The faces of the pairs on which teacher and student differ most."""

from __future__ import annotations

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ekd_tf.data import Source
from ekd_tf.data import evaluation_batches
from ekd_tf.evaluation.gap import GapPoint
from ekd_tf.metrics import format_fpr

# All in pixels: side of a face, space a pair takes with its caption, its left margin,
# and the height of a line of text above a group.
_SIDE = 112
_WIDTH, _HEIGHT, _GAP = 2 * _SIDE + 26, _SIDE + 38, 12
_HEADING = 40
_DPI = 100


def contact_sheet(source: Source, point: GapPoint, columns: int = 5) -> np.ndarray:
    """Draws the worst critical pairs of one FPR, positives above negatives.

    Below each pair stand both models' cosines and, by their marks, which accepts it:
    + for accepted, - for rejected.

    Args:
        source: Where the images are.
        point: A measurable operating point with at least one worst pair.
        columns: Int >= 1, pairs side by side.

    Returns:
        Uint8 array `(height, width, 3)`, RGB.

    Raises:
        ValueError: The point names no pair.
    """
    if not point.worst_cosines:
        raise ValueError("A contact sheet needs critical pairs. Received: none")
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
    """Draws titled groups of pairs.

    Args:
        parts: List of `(title, faces (k, 2, side, side, 3), captions)`.
        title: Above all.
        columns: Pairs side by side.
    """
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
