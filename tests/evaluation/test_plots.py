import io
import os
import subprocess
import sys

import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image

from ekd_tf.evaluation.plots import plot_roc
from ekd_tf.evaluation.plots import plot_similarities
from ekd_tf.evaluation.plots import roc_figure
from ekd_tf.evaluation.plots import similarities_figure
from ekd_tf.metrics import roc_curve


@pytest.fixture
def curves(rng):
    negative = rng.normal(size=20_000)
    return {
        name: roc_curve(rng.normal(shift, 1, 300), negative, max_points=200)[:2]
        for name, shift in (("teacher", 4), ("student", 3), ("collapsed", 0))
    }


@pytest.fixture
def similarities(rng):
    return rng.normal(0.5, 0.1, 500), rng.normal(0, 0.1, 4000)


def texts_of(artist):
    return [text.get_text() for text in artist.texts]


def check_no_overlap(texts, figure):
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in texts if text.get_text()]
    for i, box in enumerate(boxes):
        assert 0 <= box.x0 and box.x1 <= figure.bbox.width
        assert 0 <= box.y0 and box.y1 <= figure.bbox.height
        for other in boxes[i + 1 :]:
            assert not box.overlaps(other)


def check_picture(image):
    assert image.dtype == np.uint8
    assert image.ndim == 3 and image.shape[-1] == 3 and min(image.shape[:2]) > 300
    # White paper for the greater part, and something drawn on it.
    white = (image == 255).all(axis=-1).mean()
    assert 0.3 < white < 0.98


# --- ROC


def test_roc_axes_are_logarithmic_labelled_and_have_a_grid(curves):
    figure = roc_figure(curves, "a title")
    (axes,) = figure.axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    # 20,000 negatives resolve 5e-5, so 1e-4 is the lowest decade.
    np.testing.assert_allclose(axes.get_xlim(), [1e-4, 1])
    assert axes.get_xlabel() == "FPR (false positive rate)"
    assert axes.get_ylabel() == "TPR (true positive rate)"
    assert axes.xaxis.get_gridlines()[0].get_visible()
    assert figure.get_suptitle() == "a title"
    (legend,) = figure.legends
    assert texts_of(legend) == ["teacher", "student", "collapsed"]


def test_roc_lines_show_the_tpr_within_each_fpr(curves):
    (axes,) = roc_figure(curves).axes
    for line, (fpr, tpr) in zip(axes.get_lines(), curves.values()):
        assert line.get_drawstyle() == "steps-post"
        x, y = line.get_data()
        for decade in (1e-4, 1e-3, 1e-2, 1e-1, 1.0):
            at = np.argmin(np.abs(x - decade))
            np.testing.assert_allclose(x[at], decade)
            assert y[at] == tpr[fpr <= decade * (1 + 1e-9)].max()
            assert at in line.get_markevery()
        assert (np.diff(x) > 0).all() and (np.diff(y) >= 0).all()


def test_collapsed_model_lies_on_the_floor():
    (axes,) = roc_figure({"collapsed": ([0.0, 1.0], [0.0, 1.0])}).axes
    x, y = axes.get_lines()[0].get_data()
    assert (y[x < 1] == 0).all() and y[-1] == 1
    assert axes.get_xlim() == (1e-2, 1)
    assert axes.get_ylim()[0] == 0


def test_strong_models_get_a_closer_look():
    fpr = [0, 1e-4, 1e-3, 1]
    (axes,) = roc_figure({"strong": (fpr, [0.93, 0.95, 0.99, 1])}).axes
    assert axes.get_ylim()[0] == 0.9
    (axes,) = roc_figure({"weak": (fpr, [0.33, 0.95, 0.99, 1])}).axes
    np.testing.assert_allclose(axes.get_ylim()[0], 0.9)
    (axes,) = roc_figure({"weak": (fpr, [0.33, 0.37, 0.99, 1])}).axes
    np.testing.assert_allclose(axes.get_ylim()[0], 0.3)


def test_many_curves_differ_without_colour():
    (axes,) = roc_figure({f"model {k}": ([0, 1], [0, 1]) for k in range(14)}).axes
    styles = [
        (line.get_marker(), str(line._unscaled_dash_pattern))
        for line in axes.get_lines()
    ]
    assert len(set(styles)) == 14
    # The eleventh has the first one's colour, and nothing else of it.
    colours = [line.get_color() for line in axes.get_lines()]
    assert len(set(colours)) == 10 and colours[:4] == colours[10:]
    for first, second in zip(styles[:4], styles[10:]):
        assert first[0] != second[0] and first[1] != second[1]


@pytest.mark.parametrize("names", [["a"], ["x" * 60, "short"], list("abcdefg")])
def test_roc_texts_do_not_overlap(curves, names):
    figure = roc_figure({name: curves["student"] for name in names}, "title")
    figure.canvas.draw()
    (axes,) = figure.axes
    check_no_overlap(
        figure.legends[0].get_texts()
        + figure.texts
        + [axes.xaxis.label, axes.yaxis.label]
        + [t for t in axes.get_yticklabels() if 0 <= t.get_position()[1] <= 1],
        figure,
    )


def test_roc_picture_is_returned_and_written(curves, tmp_path):
    image = plot_roc(curves, tmp_path / "roc.png", "title")
    check_picture(image)
    written = np.asarray(Image.open(tmp_path / "roc.png").convert("RGB"))
    np.testing.assert_array_equal(written, image)


def test_rejects_no_curves():
    with pytest.raises(ValueError, match="`curves` must hold at least one curve"):
        plot_roc({})


@pytest.mark.parametrize("curve", [([], []), ([0, 1], [0]), ([[0, 1]], [[0, 1]])])
def test_rejects_curves_without_matching_points(curve):
    with pytest.raises(ValueError, match="two lists of one length.*'student'"):
        plot_roc({"student": curve})


# --- similarities


def test_similarities_axes_and_threshold_lines(similarities):
    thresholds = {1e-1: 0.13, 1e-2: 0.24, 1e-3: 0.31, 1e-4: None}
    figure = similarities_figure(*similarities, thresholds, "a title")
    (axes,) = figure.axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")
    assert axes.get_xlabel() == "cosine similarity"
    assert axes.get_ylabel() == "fraction of pairs per bin"
    assert figure.get_suptitle() == "a title"
    assert [line.get_xdata()[0] for line in axes.get_lines()] == [0.13, 0.24, 0.31]
    assert texts_of(axes) == ["FPR 1e-1", "FPR 1e-2", "FPR 1e-3"]
    assert texts_of(figure.legends[0]) == [
        "positive pairs (500)",
        "negative pairs (4,000)",
    ]


def test_histograms_hold_every_pair(similarities):
    (axes,) = similarities_figure(*similarities, {}).axes
    outlines = [patch for patch in axes.patches if not patch.get_fill()]
    for patch, scores in zip(outlines, similarities):
        fractions, edges, _ = patch.get_data()
        np.testing.assert_allclose(fractions.sum(), 1)
        assert edges[0] < scores.min() and scores.max() < edges[-1]
        above = edges[:-1] >= edges[60]
        np.testing.assert_allclose(
            fractions[above].sum(), np.mean(scores >= edges[60]), atol=1e-12
        )


def test_counted_scores_are_drawn_as_the_scores_themselves(similarities):
    positive, negative = similarities
    thresholds = {0.1: 0.2}
    values, counts = np.unique(positive, return_counts=True)
    # A value that none has does not widen the axis.
    counted = (np.append(values, 9.0), np.append(counts, 0))
    np.testing.assert_array_equal(
        plot_similarities(counted, negative, thresholds),
        plot_similarities(positive, negative, thresholds),
    )


def test_histograms_differ_without_colour(similarities):
    (axes,) = similarities_figure(*similarities, {}).axes
    assert {patch.get_hatch() for patch in axes.patches if patch.get_fill()} == {
        "",
        "////",
    }
    outlines = [patch for patch in axes.patches if not patch.get_fill()]
    assert {p.get_linestyle() for p in outlines} == {"-", "--"}


@pytest.mark.parametrize(
    "thresholds",
    [
        {1e-1: 0.13, 1e-2: 0.24, 1e-3: 0.31},
        {1e-1: 0.3, 1e-2: 0.31, 1e-3: 0.32, 1e-4: 0.33, 1e-5: 0.6, 1e-6: 0.61},
        {10.0**-k: 0.5 for k in range(1, 7)},
        {1e-1: -0.9, 1e-6: 1.0, 2.5e-4: 0.1, 3.5e-4: 0.12},
    ],
    ids=["apart", "close", "equal", "at the edges"],
)
def test_similarities_texts_do_not_overlap(similarities, thresholds):
    figure = similarities_figure(*similarities, thresholds, "a title")
    figure.canvas.draw()
    (axes,) = figure.axes
    assert len(axes.texts) == len(thresholds)
    check_no_overlap(
        list(axes.texts)
        + figure.texts
        + figure.legends[0].get_texts()
        + [axes.xaxis.label, axes.yaxis.label],
        figure,
    )


def test_thresholds_outside_the_scores_are_in_view(similarities):
    (axes,) = similarities_figure(*similarities, {1e-1: -0.95, 1e-6: 1.5}).axes
    low, high = axes.get_xlim()
    assert low < -0.95 and high > 1.5


def test_equal_scores_are_drawn():
    check_picture(plot_similarities([0.5] * 3, [0.5] * 9, {0.1: 0.5}))


def test_similarities_picture_is_returned_and_written(similarities, tmp_path):
    image = plot_similarities(*similarities, {0.1: 0.13}, tmp_path / "s.png")
    check_picture(image)
    written = np.asarray(Image.open(tmp_path / "s.png").convert("RGB"))
    np.testing.assert_array_equal(written, image)


@pytest.mark.parametrize("empty", [0, 1])
def test_rejects_scores_of_one_kind(similarities, empty):
    scores = list(similarities)
    scores[empty] = []
    name = ("positive", "negative")[empty]
    with pytest.raises(ValueError, match=f"Received: no {name} pairs"):
        plot_similarities(*scores, {})


def test_needs_neither_pyplot_nor_a_display():
    code = (
        "import sys;"
        "from ekd_tf.evaluation import plots;"
        # Keras may have imported it; from here on importing or using it fails.
        "sys.modules['matplotlib.pyplot'] = None;"
        "plots.plot_roc({'a': ([0, 1], [0, 1])});"
        "plots.plot_similarities([1.0], [0.0], {0.1: 0.5});"
    )
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("DISPLAY", "MPLBACKEND")
    }
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def test_figures_are_unknown_to_pyplot(curves, similarities):
    before = pyplot.get_fignums()
    plot_roc(curves)
    plot_similarities(*similarities, {0.1: 0.5})
    assert pyplot.get_fignums() == before


def test_png_bytes_can_be_written_to_an_open_file(curves):
    stream = io.BytesIO()
    plot_roc(curves, stream)
    assert stream.getvalue().startswith(b"\x89PNG")
