"""Tests for `ekd_tf.run.faint_losses`."""

import numpy as np
import pytest

from ekd_tf.run import guards
from ekd_tf.run.guards import FaintLossHook
from ekd_tf.training.loop import Step


@pytest.fixture
def warnings(monkeypatch):
    """Returns the list of the warnings logged."""
    texts = []
    monkeypatch.setattr(
        guards.logging, "warning", lambda text, *args: texts.append(text % args)
    )
    return texts


def feed(hook, weight=2.0, **ratios):
    """One step per entry of the losses' ratios."""
    count = len(next(iter(ratios.values())))
    for number in range(1, count + 1):
        scalars = {"loss": 1.0, "gradient_norm": 1.0}
        for name, values in ratios.items():
            scalars[f"gradient_ratio/{name}"] = np.float32(values[number - 1])
            scalars[f"weight/{name}"] = np.float32(weight)
        hook.after_step(Step(number, number == count, scalars, {}))


def test_warns_once_with_the_weight_that_makes_it_30_percent(warnings):
    # Mean ratio 0.002 at weight 2: 0.3 needs a weight of 2 * 0.3 / 0.002.
    feed(FaintLossHook(steps=3), ekd=[0.5, 0.001, 0.002, 0.003] + [0.001] * 9)
    assert warnings == [
        "For 3 steps, up to step 4, the gradient of 'ekd' on the embeddings was below "
        "1 % of the margin loss's: 0.2 % on average at weight 2. --distill=ekd:300 "
        "would make it 30 %; --distill=ekd:30% keeps it there"
    ]


def test_500_consecutive_steps_are_needed(warnings):
    feed(FaintLossHook(), ekd=[0.009] * 499 + [0.011] + [0.009] * 499)
    assert not warnings
    feed(FaintLossHook(), ekd=[0.009] * 500)
    assert len(warnings) == 1 and "--distill=ekd:66.7 would" in warnings[0]


def test_each_loss_is_counted_by_itself(warnings):
    feed(FaintLossHook(steps=2), ekd=[0.001, 1, 0.001, 1], cosine=[1, 0.001, 0.002, 1])
    assert len(warnings) == 1 and "'cosine'" in warnings[0]


def test_skipped_steps_neither_count_nor_interrupt(warnings):
    feed(FaintLossHook(steps=2), ekd=[0.001, np.nan, np.nan, 1, 0.001])
    assert not warnings
    feed(FaintLossHook(steps=2), ekd=[0.003, np.nan, 0.001])
    assert "0.2 % on average" in warnings[0]


def test_no_margin_gradient_is_not_faint(warnings):
    feed(FaintLossHook(steps=2), ekd=[0.001, np.inf, 0.001, np.inf])
    assert not warnings


@pytest.mark.parametrize(("weight", "ratios"), [(2.0, [0, 0]), (0.0, [0.0, 0.0])])
def test_names_no_weight_where_none_would_help(warnings, weight, ratios):
    feed(FaintLossHook(steps=2), weight, ekd=ratios)
    (text,) = warnings
    assert text.endswith("It has no gradient that a larger weight could raise")


def test_the_progress_line_makes_room_first(warnings):
    order = []
    hook = FaintLossHook(lambda: order.append(len(warnings)), steps=1)
    feed(hook, ekd=[0.001])
    assert order == [0] and len(warnings) == 1


def test_runs_without_distillation_have_nothing_to_warn_of(warnings):
    FaintLossHook(steps=1).after_step(Step(1, True, {"loss": 1.0}, {}))
    assert not warnings


def test_refuses_no_steps():
    with pytest.raises(ValueError, match="`steps` must be in"):
        FaintLossHook(steps=0)
