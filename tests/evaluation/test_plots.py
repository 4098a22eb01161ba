import numpy as np

from ekd_tf.data import SyntheticFaces
from ekd_tf.evaluation import measurable_curve
from ekd_tf.evaluation import plots
from ekd_tf.evaluation.gap import GapPoint
from ekd_tf.evaluation.tables import format_table
from ekd_tf.metrics import ROC


def test_curves_are_drawn_where_ten_negatives_lie(rng, monkeypatch):
    monkeypatch.setattr(plots, "render", lambda figure, path: figure)
    rocs = [ROC.of(rng.normal(1, 1, 300), rng.normal(size=n)) for n in (9999, 500, 5)]
    curves = {roc.num_negative: measurable_curve(roc) for roc in rocs}
    lines = plots.plot_roc(curves).axes[0].lines
    assert lines[0].axes.get_xlim() == (1e-2, 1)
    marked = [line.get_xdata()[line.get_markevery()].tolist() for line in lines]
    # Of 9,999 pairs nine lie within 1e-3, of 500 five within 1e-2.
    assert marked == [[1e-2, 1e-1, 1], [1e-1, 1], [1]]
    assert [line.get_xdata()[0] for line in lines] == [1e-2, 0.02, 1]
    for line, roc in zip(lines, rocs):
        points = roc.points(line.get_xdata())
        assert line.get_ydata().tolist() == [point.tpr for point in points]
    np.testing.assert_array_equal(measurable_curve(rocs[1], np.array([0.01, 1]))[0], 1)


def test_similarities_are_drawn(rng):
    roc = ROC.of(rng.normal(0.5, 0.1, 500), rng.normal(0, 0.1, 4000))
    # Thresholds close together, equal, outside the scores and missing.
    thresholds = {1e-1: 0.3, 1e-2: 0.31, 1e-3: 0.31, 1e-4: 1.5, 1e-5: None}
    image = plots.plot_similarities(roc, thresholds, "title")
    assert image.dtype == np.uint8
    assert image.ndim == 3 and image.shape[-1] == 3 and min(image.shape[:2]) > 300
    # White paper for the greater part, and something drawn on it.
    assert 0.3 < (image == 255).all(axis=-1).mean() < 0.98


def test_shows_the_faces_of_every_pair():
    source = SyntheticFaces(identities=3, images_per_identity=2, size=112)
    point = GapPoint(
        fpr=1e-2,
        teacher_threshold=0.3,
        student_threshold=0.4,
        critical_positive=2,
        critical_negative=1,
        worst_positive=((0, 1), (2, 3)),
        worst_negative=((0, 4),),
        worst_cosines=((0.5, 0.2), (0.1, 0.6), (0.35, 0.1)),
    )
    sheet = plots.contact_sheet(source, point)
    assert sheet.dtype == np.uint8 and sheet.ndim == 3
    # Image 0 stands in two pairs, image 5 in none.
    for face, places in zip(source.read(np.arange(6)), (2, 1, 1, 1, 1, 0)):
        corners = np.argwhere((sheet[:-111, :-111] == face[0, 0]).all(axis=2))
        shown = [sheet[top : top + 112, left : left + 112] for top, left in corners]
        assert sum(np.array_equal(each, face) for each in shown) == places


def test_a_name_that_is_no_utf8_is_drawn_with_escapes():
    figure, _ = plots.new_figure("v\udce9lo")
    assert figure._suptitle.get_text() == "v\\udce9lo"


def test_table_written_out():
    rows = [["ekd", 0.98765, 7], ["student alone", None, np.int64(1234)]]
    rows += [["a|b", np.float32(1.0), None]]
    table = format_table(rows, ["model", "accuracy", "n"])
    assert table.split("\n") == [
        "| model         | accuracy |    n |",
        "| ------------- | -------: | ---: |",
        "| ekd           |   0.9877 |    7 |",
        "| student alone |      n/a | 1234 |",
        "| a\\|b          |   1.0000 |  n/a |",
    ]
