"""Tests for `ekd_tf.run.best`."""

import json

import pytest

from ekd_tf.run.best import BestMetric


def offered(name, values):
    best = BestMetric(name)
    answers = [best.offer(step, {"m": value}) for step, value in enumerate(values)]
    return best, answers


def test_larger_is_better_and_the_first_of_equals_stays():
    best, answers = offered("m", [0.5, 0.5, 0.7, 0.6, 0.7])
    assert answers == [True, False, True, False, False]
    assert (best.value, best.step) == (0.7, 2)


def test_smaller_is_better_with_a_minus():
    best, answers = offered("-m", [0.5, 0.6, 0.4])
    assert answers == [True, False, True]
    assert (best.value, best.step) == (0.4, 2)


def test_nan_is_never_the_best():
    best, answers = offered("m", [float("nan"), 0.1, float("nan")])
    assert answers == [False, True, False]
    assert best.step == 1


def test_state_survives_a_checkpoint():
    before, _ = offered("m", [0.5])
    after = BestMetric("m")
    after.restore(json.loads(json.dumps(before.to_dict())))
    assert not after.offer(7, {"m": 0.4})
    assert (after.value, after.step) == (0.5, 0)


@pytest.mark.parametrize("state", [None, {"name": "other", "value": 9.0, "step": 3}])
def test_state_of_nothing_or_of_another_metric_is_left(state):
    best = BestMetric("m")
    best.restore(state)
    assert (best.value, best.step) == (None, None)


def test_unknown_metric_lists_those_there_are():
    with pytest.raises(ValueError, match="report: a, b. Received: '-m'"):
        BestMetric("-m").offer(1, {"b": 1.0, "a": 2.0})


def test_rejects_a_metric_that_nobody_will_report_before_the_run():
    BestMetric("-lfw/eer").check_reported(["heldout/eer", "lfw/eer"])
    with pytest.raises(
        ValueError, match="evaluations report: lfw/auc, lfw/eer.*'heldout/accuracy'"
    ):
        BestMetric("heldout/accuracy").check_reported(["lfw/eer", "lfw/auc"])
