"""What a page shows of a set is what NumPy finds, pair by pair."""

import base64
import io
import json
import re

import numpy as np
import pytest
from pages import Fixed
from pages import data_of
from pairwise import all_pairs
from PIL import Image
from toys import unit

from ekd_tf.data import PairSet
from ekd_tf.evaluation import Calibration
from ekd_tf.evaluation import Models
from ekd_tf.evaluation import PairSetEvaluation
from ekd_tf.evaluation.allpairs import PairBlocks
from ekd_tf.page import set_section
from ekd_tf.page import write_page
from ekd_tf.page.columns import Column
from ekd_tf.page.counts import GridCounts
from ekd_tf.page.counts import SliceCounts
from ekd_tf.page.counts import Units
from ekd_tf.page.counts import labelled_pairs


def test_counts_at_every_threshold_are_exact(section, pairs):
    slider = section["slider"]
    counts = zip(slider["thresholds"], slider["positives"], slider["negatives"])
    for threshold, positives, negatives in counts:
        above = pairs.cosine > np.float32(threshold)
        assert (above & pairs.same).sum() == positives, threshold
        assert (above & ~pairs.same).sum() == negatives, threshold
    grid = [t for t in slider["thresholds"] if t not in slider["stops"].values()]
    assert np.ptp(np.diff(grid)) == 0 and grid[1] - grid[0] == slider["step"]


def test_figures_are_those_of_the_json(case, page):
    (found,) = data_of(page)["sets"]
    document = json.loads(json.dumps(case.result.document))
    for name in ("student", "teacher"):
        assert found["models"][name]["figures"] == document[name]
        fprs, tprs = found["models"][name]["curve"]
        # Ten of 19,500 negative pairs.
        assert 10 / 19_500 <= fprs[0] < 10.6 / 19_500 and fprs[-1] == tprs[-1] == 1
    slider, student = found["slider"], document["student"]
    # At 1e-4 too few negatives are allowed.
    assert slider["stops"].keys() == {"1e-1", "1e-2"}
    for fpr, threshold in slider["stops"].items():
        assert threshold == student["thresholds"][fpr]
        place = slider["thresholds"].index(threshold)
        tpr = slider["positives"][place] / student["num_positive"]
        assert tpr == student["tpr"][fpr]


def test_intervals_are_those_of_resampled_identities(rng):
    labels = np.repeat(np.arange(60), 6)
    # Some people are hard: pairs of one are far from independent.
    spread = rng.uniform(0.5, 2, 60)[labels, None]
    rows = rng.normal(size=(60, 8))[labels] + spread * rng.normal(size=(360, 8))
    rows, grid = unit(rows), GridCounts([], Units(labels, 360))
    for block in labelled_pairs(PairBlocks(rows, labels, block_size=100)):
        grid.add(*block)
    place = np.searchsorted(grid.thresholds, 0.5)
    above = np.triu(rows @ rows.T > 0.5, k=1)
    same = labels[:, None] == labels
    drawn = []
    for _ in range(400):
        times = np.bincount(rng.integers(0, 60, 60), minlength=60)[labels]
        weights = np.where(same, times[:, None], times[:, None] * times)
        weights = np.triu(weights, k=1)
        kinds = [weights * same, weights * ~same]
        drawn.append([(w * above).sum() / w.sum() for w in kinds])
    expected = np.percentile(drawn, (2.5, 97.5), axis=0).T
    found = grid.intervals()[:, place]
    widths, expected_widths = np.ptp(found, axis=1), np.ptp(expected, axis=1)
    np.testing.assert_allclose(widths, expected_widths, rtol=0.2)
    np.testing.assert_allclose(found, expected, atol=0.3 * expected_widths.max())
    # Below all scores every pair is above: there is no other side.
    assert np.isnan(grid.intervals()[:, 0]).all()


def test_slices_are_of_pairs_within_them(case, pairs):
    values = np.arange(len(case.labels)) % 3 - 1
    units = Units(case.labels, len(case.labels))
    column = Column("third", ("b", "c"), values)
    counts = SliceCounts([0.25], [column], units)
    for block in labelled_pairs(PairBlocks(case.models.student.rows, case.labels)):
        counts.add(*block)
    ((of_column, intervals),) = counts.column_counts()
    above = pairs.cosine > np.float32(0.25)
    for level, chosen in enumerate((np.ones_like(above), above)):
        for kind, of_kind in enumerate((pairs.same, ~pairs.same)):
            for value in range(2):
                inside = values[pairs.left] == value
                inside &= values[pairs.right] == value
                expected = (chosen & of_kind & inside).sum()
                assert of_column[level, kind, value] == expected
            for person in (0, 7):
                ends = [case.labels[s] == person for s in (pairs.left, pairs.right)]
                expected = (chosen & of_kind & (ends[0] | ends[1])).sum()
                assert counts.identity_counts[level, kind, person] == expected
    # A slice alone, as a set of its own, has the same intervals.
    for value, of_slice in enumerate(intervals):
        rows, labels = case.models.student.rows[values == value], case.labels
        grid = GridCounts([0.25], Units(labels[values == value], len(rows)))
        for block in labelled_pairs(PairBlocks(rows, labels[values == value])):
            grid.add(*block)
        place = np.searchsorted(grid.thresholds, 0.25)
        np.testing.assert_allclose(of_slice[:, 0], grid.intervals()[:, place])
        assert np.isfinite(of_slice[1]).all()


def test_critical_pairs_are_the_worst_of_either_direction(case, section, pairs):
    critical = section["critical"]
    of_teacher = all_pairs(case.models.teacher.rows, case.labels)
    above = [
        found.cosine - np.float32(critical["thresholds"][name])
        for name, found in (("teacher", of_teacher), ("student", pairs))
    ]
    is_right = [(a > 0) == pairs.same for a in above]
    for right, wins in (("teacher", 0), ("student", 1)):
        for kind, of_kind in (("positive", pairs.same), ("negative", ~pairs.same)):
            chosen = of_kind & is_right[wins] & ~is_right[1 - wins]
            assert critical["counts"][right][kind] == chosen.sum()
            off = np.sort(np.abs(above[0] - above[1])[chosen])[::-1][:10]
            rows = [r for r in critical["rows"] if r["right"] == right]
            found = [r["off"] for r in rows if r["kind"] == kind]
            np.testing.assert_allclose(found, off, atol=1e-6)
    # With a teacher this good only it is right of positive pairs, often.
    assert critical["counts"]["teacher"]["positive"] > 20
    (point,) = [p for p in case.result.gap.points if p.fpr == 1e-2]
    shown = {tuple(row["pair"]) for row in critical["rows"]}
    assert {*point.worst_positive, *point.worst_negative} <= shown


def test_pictures_are_of_the_set_and_can_be_left_out(case, section, page, tmp_path):
    rows = {k for row in section["pairs"] for k in row[2:]}
    assert rows <= section["pictures"].keys()
    for row, uri in list(section["pictures"].items())[:5]:
        data = base64.b64decode(uri.partition("base64,")[2])
        with Image.open(io.BytesIO(data)) as shown:
            found = np.asarray(shown.resize((24, 24)), float)
        with Image.open(io.BytesIO(case.source.files[row])) as stored:
            assert np.abs(found - np.asarray(stored)).mean() < 12
    less = set_section(case.evaluation, case.models, case.result, image_bytes=5000)
    assert 0 < sum(map(len, less["pictures"].values())) <= 6000
    without = set_section(case.evaluation, case.models, case.result)
    # Of the names those of critical pairs alone stay.
    worst = {k for row in without["critical"]["rows"] for k in row["pair"]}
    assert without["pairs"] == [] and without["names"].keys() == worst
    path = write_page(tmp_path, "t", {}, {"sets": [without]})
    assert "data:image" not in path.read_text() and "data:image" in page.read_text()


def test_a_collapsed_model_has_a_page_too(case):
    student = Fixed(np.ones_like(case.models.student.rows))
    models = Models(student, case.models.teacher)
    section = set_section(case.evaluation, models, case.evaluation(models))
    slider = section["slider"]
    assert slider["positives"][0] == 400 and slider["positives"][-1] == 0
    assert slider["tpr_intervals"] == [None] * len(slider["thresholds"])


def test_no_name_ends_the_data(page):
    assert page.stat().st_size < 3_000_000
    text = page.read_text()
    assert text.count("<script") == text.count("</script>") == 3
    assert "<img src=x" not in text and "&lt;img src=x" in text
    assert "<!--" not in text and not re.search(r'(src|href)="?http', text)
    assert data_of(page)["title"].startswith("</script><img")


def test_given_pairs_and_a_shipped_threshold(case):
    same = case.labels[::2] == case.labels[1::2]
    assert 0 < same.sum() < same.size
    evaluation = PairSetEvaluation(PairSet("toy", case.source, same), fprs=(0.5,))
    models = Models(case.models.student)
    calibration = Calibration(0.5, 0.2, None, 0.9, 100, "elsewhere")
    result = evaluation(models)
    section = set_section(evaluation, models, result, None, calibration, 10**5)
    rows = case.models.student.rows.astype(np.float64)
    cosine = (rows[::2] * rows[1::2]).sum(axis=1)
    expected = [(cosine[kind] > 0.2).sum() for kind in (same, ~same)]
    assert section["calibration"]["above"] == expected
    assert section["calibration"]["pairs"] == [same.sum(), (~same).sum()]
    assert section["critical"] is None and not section["identities"]
    slider = section["slider"]
    place = slider["thresholds"].index(slider["stops"]["5e-1"])
    tpr = slider["positives"][place] / same.sum()
    assert tpr == pytest.approx(result.student.tpr[0.5])
    mirrored = Calibration(0.5, 0.2, None, 0.9, 9, "x", view="image and mirror image")
    assert not set_section(evaluation, models, result, None, mirrored)["calibration"]
