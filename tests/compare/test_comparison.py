import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from refusals import refused

from ekd_tf import compare
from ekd_tf.compare.comparison import tpr_within
from ekd_tf.data import SyntheticFaces
from ekd_tf.evaluation import LabelledEvaluation
from ekd_tf.evaluation import SourceEmbedder
from ekd_tf.evaluation import plots
from ekd_tf.evaluation import verify_embeddings


def run(accuracy, high, low):
    """Figures with these TPRs at FPR 1e-2 and 1e-3 and a curve through them."""
    curve = (1e-3, 1e-2, 1.0), (low or 0.0, high, 1.0)
    return compare.RunFigures(accuracy, {1e-2: high, 1e-3: low}, curve)


@pytest.fixture
def comparison():
    return compare.Comparison(
        "faces",
        {
            "alone": {0: run(0.7, 0.30, 0.10), 1: run(0.8, 0.40, 0.20)},
            "cosine": {0: run(0.8, 0.60, 0.30), 1: run(0.9, 0.55, 0.10)},
            "gone": {},
        },
        {0: run(1.0, 0.90, 0.50), 1: run(1.0, 1.00, 0.70)},
    )


def test_spread_by_hand():
    spread = compare.Spread.of([0.1, None, 0.4, 0.1])
    assert spread.values == (0.1, 0.4, 0.1)
    assert spread.mean == pytest.approx(0.2)
    assert (spread.low, spread.high) == (0.1, 0.4)
    # Squared distances 0.01 + 0.04 + 0.01 by n - 1 = 2.
    assert spread.sd == pytest.approx(0.03**0.5)
    assert spread.text() == "20.0 (10.0..40.0; sd 17.3)"
    assert compare.Spread.of([None]) is None
    # Two have no deviation and one no range.
    assert compare.Spread((0.1, 0.3)).sd is None
    assert compare.Spread((0.1, 0.3)).text() == "20.0 (10.0..30.0)"
    assert compare.Spread((0.1,)).text() == "10.0"


def test_share_of_the_gap_is_of_the_runs_of_one_seed(comparison):
    shares = comparison.closed("cosine", 1e-2)
    # Seed 0: (0.60 - 0.30) / (0.90 - 0.30); seed 1: (0.55 - 0.40) / (1 - 0.40).
    assert shares.values == pytest.approx((0.5, 0.25))
    # Worse than alone: (0.10 - 0.20) / (0.70 - 0.20).
    assert comparison.closed("cosine", 1e-3).values == pytest.approx((0.5, -0.2))
    assert comparison.closed("alone", 1e-2).values == (0, 0)
    assert comparison.closed("gone", 1e-2) is None
    # Seeds without a partner have none.
    alone = comparison.methods["alone"]
    del alone[1]
    assert comparison.closed("cosine", 1e-2).values == pytest.approx((0.5,))
    assert "| cosine        | 50.0, 1 of 2 seeds |" in comparison.closed_table()
    # The teacher is not above alone.
    alone[0] = run(0.7, 0.90, 0.10)
    assert comparison.closed("cosine", 1e-2) is None
    comparison.teacher.clear()
    assert comparison.closed("cosine", 1e-3) is None


def test_tables_written_out(comparison):
    assert comparison.to_table().splitlines()[2:] == [
        "| teacher |     2 | 100.0             | 95.0 (90.0..100.0) | "
        "60.0 (50.0..70.0) |",
        "| alone   |     2 | 75.0 (70.0..80.0) | 35.0 (30.0..40.0)  | "
        "15.0 (10.0..20.0) |",
        "| cosine  |     2 | 85.0 (80.0..90.0) | 57.5 (55.0..60.0)  | "
        "20.0 (10.0..30.0) |",
        "| gone    |     0 | n/a               | n/a                | "
        "n/a               |",
    ]
    assert comparison.closed_table().splitlines() == [
        "| gap closed by | at 1e-2           | at 1e-3            |",
        "| ------------- | ----------------- | ------------------ |",
        "| cosine        | 37.5 (25.0..50.0) | 15.0 (-20.0..50.0) |",
        "| gone          | n/a               | n/a                |",
    ]


def test_curves_are_means_where_all_seeds_are_measurable():
    runs = {
        0: compare.RunFigures(0.7, {}, ((1e-3, 1e-2, 1.0), (0.1, 0.2, 1.0))),
        1: compare.RunFigures(0.7, {}, ((1e-2, 1.0), (0.6, 1.0))),
    }
    fpr, tpr = compare.Comparison("faces", {"alone": runs}).curves()["alone"]
    np.testing.assert_array_equal(fpr, [1e-2, 1.0])
    np.testing.assert_allclose(tpr, [0.4, 1.0])


def test_tpr_within_an_fpr_is_that_of_the_last_point_before():
    curve = [0.0, 0.01, 0.01, 0.1, 1.0], [0.2, 0.3, 0.4, 0.5, 1.0]
    found = tpr_within(curve, np.array([1e-3, 10.0**-2, 0.05, 1.0]))
    np.testing.assert_array_equal(found, [0.2, 0.4, 0.4, 1.0])
    assert tpr_within(([0.5], [0.5]), np.array([0.1])) == [0.0]


def test_figures_of_a_run_survive_json(rng):
    labels = np.repeat(np.arange(20), 4)
    rows = rng.normal(size=(20, 8))[labels] + rng.normal(size=(80, 8))
    report = verify_embeddings(rows, labels, (1e-1, 1e-2, 1e-6))
    found = compare.RunFigures.of(report)
    assert found.accuracy == report.accuracy_mean
    assert found.tpr == {**report.tpr, 1e-6: None}
    # Of 3,040 negatives ten lie within 3.3e-3.
    assert 10 / 3040 <= found.curve[0][0] < 11.3 / 3040
    at = [found.curve[0].index(fpr) for fpr in (1e-2, 1e-1)]
    assert [found.curve[1][k] for k in at] == [report.tpr[1e-2], report.tpr[1e-1]]
    again = json.loads(json.dumps(found.to_dict()))
    assert compare.RunFigures.from_dict(again) == found


def test_figures_are_computed_once_per_model_and_set(tmp_path, no_pictures):
    path, opened = tmp_path / "reports" / "kept.json", []
    source = SyntheticFaces(identities=5, images_per_identity=4, size=32)
    # The second is of the same images, with another fingerprint.
    one, two = (
        LabelledEvaluation(name, source, (fpr,))
        for name, fpr in (("one", 0.1), ("two", 0.2))
    )
    mean = tf.linspace(-1.0, 1.0, 32)[:, None] * [[1.0, 0.5, 0.2]]

    def embed(images):
        return tf.einsum("nhwc,hc->nc", tf.cast(images, tf.float32), mean)

    def kept(model, *evaluations):
        def open_model():
            opened.append(model)
            return SourceEmbedder(embed, 32)

        return compare.kept_figures(path, model, open_model, evaluations)

    first = kept("a", one)
    assert opened == ["a"] and first.keys() == {"one"}
    again = kept("a", one)
    assert opened == ["a"] and again == first
    assert again["one"].accuracy > 0 and again["one"].curve[1][-1] == 1
    both = kept("a", one, two)
    assert opened == ["a", "a"] and both["one"] == first["one"]
    assert list(both["two"].tpr) == [0.2]
    kept("b", one)
    assert opened == ["a", "a", "b"] and len(json.loads(path.read_text())) == 3


def with_tpr(tpr):
    return compare.RunFigures(0.5, {1e-2: tpr}, ((0.01, 1.0), (tpr, 1.0)))


def summary(method, state="finished", note=""):
    return {
        "method": method,
        "seed": 3,
        "state": state,
        "note": note,
        "images_per_second": 123.4,
        "ms_per_step": 87.6,
        "seconds": 56.7,
        "command": f"train --x={method}",
    }


def test_the_report_lists_failures_facts_and_commands_and_has_pictures(
    tmp_path, monkeypatch
):
    folder, render, drawn = tmp_path / "out", plots.render, []
    monkeypatch.setattr(
        plots, "render", lambda *given: (drawn.append(given[0]), render(*given))[1]
    )
    methods = {"alone": {3: with_tpr(0.2)}, "ekd": {}, "cosine": {3: with_tpr(0.5)}}
    # One that has collapsed.
    methods["low"] = {3: with_tpr(0)}
    comparison = compare.Comparison("faces", methods, {3: with_tpr(0.8)})
    runs = [
        summary("alone"),
        summary("ekd", "failed", "The embeddings have collapsed."),
        summary("cosine", note="collapsed: the mean cosine is 0.9990"),
    ]
    facts = {"Machine": "two cores", "Seeds": [3]}
    text = compare.write_comparison(folder, [comparison], runs, facts)
    assert "Not every run has figures" in text and "In %, one seed." in text
    assert "- ekd, seed 3: The embeddings have collapsed." in text
    assert "- cosine, seed 3: collapsed: the mean cosine is 0.9990" in text
    table = [line.split() for line in text.splitlines() if line.startswith("| ekd ")]
    assert ["n/a", "|", "n/a", "|"] == table[0][-4:]
    assert ["failed", "|", "123", "|", "57", "|"] == table[2][-6:]
    assert "Machine: two cores" in text and "Seeds: `[3]`" in text
    assert "train --x=alone\n\ntrain --x=ekd\n\ntrain --x=cosine" in text
    assert "| cosine        | 50.0    |" in text
    assert (folder / "report.md").read_text() == text
    report = json.loads((folder / "report.json").read_text())
    assert report["Machine"] == "two cores"
    states = [run["state"] for run in report["runs"]]
    assert states == ["finished", "failed", "finished"]
    share = report["sets"]["faces"]["cosine"]["closed"]["1e-2"]
    assert share["mean"] == pytest.approx((0.5 - 0.2) / (0.8 - 0.2))
    # What has no figure has no bar; the teacher has none, but a name.
    (panel,) = drawn[1].axes
    assert panel.get_title() == "FPR 1e-2, teacher 80.0"
    assert [label.get_text() for label in panel.texts] == ["20.0", "", "50.0", "0.0"]
    for what in ("roc", "tpr"):
        assert f"(faces_{what}.png)" in text
        with Image.open(folder / f"faces_{what}.png") as picture:
            pixels = np.asarray(picture.convert("RGB"))
        assert 0.3 < (pixels == 255).all(axis=-1).mean() < 0.98


def test_says_what_is_wrong_with_names():
    for name, method in (("../x", "alone"), ("a/b", "alone"), ("faces", "teacher")):
        words = f"`name`, which files are named by.*name='{name}', methods=.*{method}"
        refused(words, compare.Comparison, name, {method: {3: with_tpr(0.2)}})


def test_shares_and_fprs_that_nothing_has_are_left_out(tmp_path):
    alone = compare.Comparison("faces", {"alone": {3: with_tpr(0.2)}})
    few = compare.RunFigures(0.7, {1e-2: None, 1e-3: None}, ((0.1, 1.0), (0.5, 1.0)))
    few = compare.Comparison("few", {"alone": {3: few}})
    text = compare.write_comparison(tmp_path, [alone, few], [summary("alone")], {})
    assert "gap" not in text and "Not every run" not in text
    sentence = "TPR at FPR 1e-2, 1e-3 is not measurable: it takes 1000, 10000 negative"
    assert text.count("is not measurable") == text.count(sentence) == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["not_measurable"] == {"faces": [], "few": [sentence + " pairs"]}
    assert "few_roc.png" in text and "few_tpr.png" not in text
