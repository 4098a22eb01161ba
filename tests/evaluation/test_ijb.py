import dataclasses
import json
import types

import numpy as np
import pytest
from refusals import refused

from ekd_tf.data import TemplateSet
from ekd_tf.data.templates import TemplatePairs
from ekd_tf.data.templates import TemplateSubjects
from ekd_tf.evaluation import IJBEvaluation
from ekd_tf.evaluation import Models
from ekd_tf.metrics import ROC


@pytest.fixture(scope="module")
def arrays(golden_arrays):
    return golden_arrays("ijb_insightface.npz")


@pytest.fixture(scope="module")
def model(arrays):
    views = np.stack([arrays["features_original"], arrays["features_flipped"]], axis=1)
    return types.SimpleNamespace(name="m", views=lambda source: views)


@pytest.fixture(scope="module")
def templates(arrays):
    first, second = (arrays[f"pair_template_{k}"].astype(np.int32) for k in (1, 2))
    return TemplateSet(
        name="toy",
        images=types.SimpleNamespace(left_out=(), describe=str),
        template=arrays["template_id"],
        media=arrays["media_id"],
        score=arrays["detector_score"],
        pairs=TemplatePairs(first, second, arrays["pair_label"] == 1),
        galleries={},
        probes=None,
    )


SWITCHES = ("N1D1F1", "N0D0F0", "N1D0F1", "N0D1F1")
FPRS = (1e-4, 1e-3, 1e-2, 1e-1)


def test_reproduces_insightface_and_gives_the_strict_rule(
    templates, model, arrays, tmp_path
):
    # Small letters will do.
    names = [name.lower() for name in SWITCHES]
    result = IJBEvaluation(templates, FPRS, names)(Models(model))
    for switches, report in result.reports["student"].items():
        expected = arrays[f"{switches.lower()}_tpr_nearest"]
        np.testing.assert_allclose(list(report.nearest.values()), expected, atol=1e-5)
        same, scores = arrays["pair_label"] == 1, arrays[f"{switches.lower()}_score"]
        points = ROC.of(scores[same], scores[~same]).points(FPRS)
        # 19,730 negatives: FPR 1e-4 lets through one.
        assert report.strict[1e-4] is None
        for point in points[1:]:
            # Scores agree to 1e-7: one positive of 270 may change sides.
            strict = report.strict[point.target_fpr]
            assert strict == pytest.approx(point.tpr, abs=0.004)
            assert point.tpr <= report.nearest[point.target_fpr] + 0.004
    result.write(tmp_path)
    report = json.loads((tmp_path / "toy.json").read_text())
    figures = report["student"]["N1D1F1"]
    assert figures["nearest"]["1e-2"] == pytest.approx(0.8333, abs=1e-4)
    assert figures["strict"]["1e-4"] is None
    assert (tmp_path / "toy_roc.png").is_file()
    text = result.text
    for switches in SWITCHES:
        assert text.count(f"| {switches} ") == 2
    assert text.count("| strict ") == text.count("| nearest ") == 4
    assert "1e-4 is not measurable: it takes 100000 negative pairs" in text


def test_searches_both_galleries_and_takes_the_mean(templates, model):
    # Templates searched against themselves: the mate is first with cosine 1 in their
    # own gallery, and unknown to the other.
    # Subjects of the first gallery exchanged: none of three finds its mate first.
    numbers, people = np.unique(templates.template)[:5], np.arange(100, 105)
    for subjects, first in (([100, 101, 102], 1.0), ([101, 102, 100], 0.5)):
        searched = dataclasses.replace(
            templates,
            galleries={
                "G1": TemplateSubjects(numbers[:3], np.array(subjects)),
                "G2": TemplateSubjects(numbers[3:], people[3:]),
            },
            probes=TemplateSubjects(numbers, people),
        )
        result = IJBEvaluation(searched, FPRS, ["N1D1F1"])(Models(model))
        figures = result.reports["student"]["N1D1F1"]
        assert figures.rank == {1: first, 5: 1.0, 10: 1.0}
        assert figures.tpir == {0.01: first, 0.1: first}
    assert "rank-1" in result.text and "TPIR@1e-2" in result.text
    assert result.scalars()["toy/N1D1F1/rank_1"] == 0.5


def test_rejects_lists_that_do_not_fit(templates):
    without = dataclasses.replace(templates, pairs=None)
    refused("no list of pairs", IJBEvaluation, without, FPRS, SWITCHES)
    first, second, same = (np.array(row) for row in ([1, 9999], [2, 3], [True, False]))
    unfit = dataclasses.replace(templates, pairs=TemplatePairs(first, second, same))
    refused("1 listed templates have.*9999", IJBEvaluation, unfit, FPRS, SWITCHES)
    refused("must be one of 'N0D0F0'", IJBEvaluation, templates, FPRS, ["N3"])
    refused("`len.ijb_switches.` must be", IJBEvaluation, templates, FPRS, [])
