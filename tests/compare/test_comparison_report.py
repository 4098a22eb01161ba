import json

import numpy as np
import pytest
from PIL import Image

from ekd_tf.compare import Comparison
from ekd_tf.compare import RunFigures
from ekd_tf.compare import write_comparison
from ekd_tf.compare.report import plot_closed
from ekd_tf.compare.report import plot_tpr_bars


def run(tpr):
    return RunFigures(0.5, {1e-2: tpr}, ((0.01, 1.0), (tpr, 1.0)))


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


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "out"
    comparison = Comparison("faces", {"alone": {3: run(0.2)}, "ekd": {}}, {3: run(0.8)})
    comparison.methods["cosine"] = {3: run(0.5)}
    runs = [
        summary("alone"),
        summary("ekd", "failed", "The embeddings have collapsed."),
        summary("cosine", note="collapsed: the mean cosine is 0.9990"),
    ]
    facts = {"Machine": "two cores", "Seeds": [3]}
    return write_comparison(folder, [comparison], runs, facts), folder


def test_failed_runs_facts_and_commands_are_listed(written):
    text, _ = written
    assert "Not every run has figures" in text
    assert "- ekd, seed 3: The embeddings have collapsed." in text
    assert "- cosine, seed 3: collapsed: the mean cosine is 0.9990" in text
    table = [line.split() for line in text.splitlines() if line.startswith("| ekd ")]
    assert ["n/a", "|", "n/a", "|"] == table[0][-4:]
    assert ["failed", "|", "123", "|", "57", "|"] == table[2][-6:]
    assert "Machine: two cores" in text and "Seeds: `[3]`" in text
    assert "train --x=alone\n\ntrain --x=ekd\n\ntrain --x=cosine" in text
    assert "| cosine        | 50.0    |" in text


def test_report_is_also_json_and_pictures(written):
    text, folder = written
    assert (folder / "report.md").read_text() == text
    report = json.loads((folder / "report.json").read_text())
    assert report["Machine"] == "two cores"
    states = [run["state"] for run in report["runs"]]
    assert states == ["finished", "failed", "finished"]
    share = report["sets"]["faces"]["cosine"]["closed"]["1e-2"]
    assert share["mean"] == pytest.approx((0.5 - 0.2) / (0.8 - 0.2))
    for what in ("roc", "tpr", "closed"):
        assert f"(faces_{what}.png)" in text
        assert (folder / f"faces_{what}.png").stat().st_size > 1000


def test_without_a_teacher_no_share_is_shown(tmp_path):
    comparison = Comparison("faces", {"alone": {3: run(0.2)}})
    text = write_comparison(tmp_path, [comparison], [summary("alone")], {})
    assert "gap" not in text and "Not every run" not in text
    assert not (tmp_path / "faces_closed.png").exists()


def test_pictures_are_drawn_and_written(tmp_path):
    # A collapsed method, and one without a run.
    methods = {"alone": 0.5, "cosine": 0.7, "low": 0}
    methods = {name: {3: run(tpr)} for name, tpr in methods.items()}
    comparison = Comparison("faces", {**methods, "ekd": {}}, {3: run(0.8)})
    for plot in (plot_tpr_bars, plot_closed):
        image = plot(comparison, tmp_path / "picture.png", "a title")
        assert image.dtype == np.uint8 and image.ndim == 3
        assert 0.3 < (image == 255).all(axis=-1).mean() < 0.98
        with Image.open(tmp_path / "picture.png") as written:
            np.testing.assert_array_equal(np.asarray(written.convert("RGB")), image)
