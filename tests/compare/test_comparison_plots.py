import numpy as np
import pytest
from PIL import Image

from ekd_tf.compare import Comparison
from ekd_tf.compare import RunFigures
from ekd_tf.compare.plots import closed_figure
from ekd_tf.compare.plots import plot_closed
from ekd_tf.compare.plots import plot_tpr_bars
from ekd_tf.compare.plots import tpr_figure

FPRS = (1e-1, 1e-2, 1e-3)
NAMES = [f"method {k}" for k in range(7)]


def run(*tprs):
    return RunFigures(0.5, dict(zip(FPRS, tprs)), ((0.1, 1.0), (tprs[0], 1.0)))


def make(methods, teacher=True):
    return Comparison(
        "faces",
        {
            "alone": {0: run(0.5, 0.2, 0.1), 1: run(0.6, 0.3, 0.1)},
            **{
                name: {0: run(0.7, 0.4, 0.2), 1: run(0.65, 0.45, 0.3)}
                for name in methods
            },
        },
        {seed: run(0.9, 0.8, 0.7) for seed in (0, 1) if teacher},
    )


def texts_inside(figure, texts):
    """Checks that drawn texts lie within the figure and apart from each other."""
    figure.canvas.draw()
    boxes = [t.get_window_extent() for t in texts if t.get_text() and t.get_visible()]
    for number, box in enumerate(boxes):
        assert 0 <= box.x0 and box.x1 <= figure.bbox.width
        assert 0 <= box.y0 and box.y1 <= figure.bbox.height
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])
    return len(boxes)


def test_every_fpr_has_a_panel_and_every_method_a_bar():
    figure = tpr_figure(make(["cosine"]), "a title")
    assert [axes.get_title() for axes in figure.axes] == [
        "FPR 1e-1",
        "FPR 1e-2",
        "FPR 1e-3",
    ]
    first = figure.axes[0]
    names = [label.get_text() for label in first.get_yticklabels()]
    assert names == ["alone", "cosine"]
    assert [bar.get_width() for bar in first.patches] == pytest.approx([55, 67.5])
    # Top to bottom, as in the table.
    bottom, top = first.get_ylim()
    assert bottom > top
    teacher = [line for line in first.lines if line.get_linestyle() == "--"]
    assert [line.get_xdata()[0] for line in teacher] == [90]


def test_bars_have_a_dot_per_seed_on_a_line_from_lowest_to_highest():
    axes = tpr_figure(make(["cosine"], teacher=False)).axes[1]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [sorted(line.get_xdata()) for line in dots] == [
        pytest.approx([20, 30]),
        pytest.approx([40, 45]),
    ]
    ranges = [line for line in axes.lines if line.get_marker() != "o"]
    assert [list(line.get_xdata()) for line in ranges] == [
        pytest.approx([20, 30]),
        pytest.approx([40, 45]),
    ]


def test_a_method_without_runs_keeps_its_row():
    comparison = make(["cosine"])
    comparison.methods["gone"] = {}
    figure = tpr_figure(comparison)
    assert "no figure" in [text.get_text() for text in figure.axes[0].texts]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "alone",
        "cosine",
        "gone",
    ]


def test_share_is_drawn_over_a_logarithmic_fpr_with_its_spread():
    figure = closed_figure(make(["cosine", "ekd"]), "a title")
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1e-1", "1e-2", "1e-3"]
    lines = {container.get_label(): container.lines[0] for container in axes.containers}
    assert list(lines) == ["cosine", "ekd"]
    # FPR 1e-1: (0.7 - 0.5) / (0.9 - 0.5) and (0.65 - 0.6) / (0.9 - 0.6).
    assert lines["cosine"].get_ydata()[0] == pytest.approx(100 * (1 / 2 + 1 / 6) / 2)
    (bars,) = axes.containers[0].lines[2]
    assert bars.get_segments()[0][:, 1] == pytest.approx([100 / 6, 50])
    # Neither hides the other's whiskers.
    assert lines["cosine"].get_xdata()[0] < 1e-1 < lines["ekd"].get_xdata()[0]
    assert len({line.get_linestyle() for line in lines.values()}) == 2
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["cosine", "ekd"]


def test_a_collapsed_method_does_not_flatten_the_others():
    comparison = make(["cosine"])
    # (0 - 0.5) / (0.9 - 0.5) and (0 - 0.6) / (0.9 - 0.6) at FPR 1e-1.
    comparison.methods["gone"] = {0: run(0.0, 0.2, 0.1), 1: run(0.0, 0.3, 0.1)}
    figure = closed_figure(comparison)
    (axes,) = figure.axes
    assert axes.get_ylim()[0] == -50
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["cosine", "gone (down to -162)"]


@pytest.mark.parametrize("make_figure", [tpr_figure, closed_figure])
def test_texts_do_not_overlap(make_figure):
    figure = make_figure(make(NAMES), "a title")
    texts = [*figure.texts, *(t for legend in figure.legends for t in legend.texts)]
    for axes in figure.axes:
        texts += [axes.title, axes.xaxis.label, axes.yaxis.label]
        texts += axes.get_xticklabels() if make_figure is closed_figure else axes.texts
    texts += figure.axes[0].get_yticklabels() if make_figure is tpr_figure else []
    assert texts_inside(figure, texts) >= len(NAMES)


@pytest.mark.parametrize("plot", [plot_tpr_bars, plot_closed])
def test_picture_is_returned_and_written(plot, tmp_path):
    path = tmp_path / "picture.png"
    image = plot(make(["cosine"]), path)
    assert image.dtype == np.uint8 and image.shape[2] == 3
    with Image.open(path) as written:
        np.testing.assert_array_equal(np.asarray(written.convert("RGB")), image)


def test_rejects_what_has_nothing_to_draw():
    with pytest.raises(ValueError, match="No method has a share of the gap on faces"):
        closed_figure(make(["cosine"], teacher=False))
    with pytest.raises(ValueError, match="no FPR is measurable on faces"):
        tpr_figure(Comparison("faces", {"alone": {0: run(None, None, None)}}))
