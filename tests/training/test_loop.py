import pytest

from ekd_tf.training.loop import Every
from ekd_tf.training.loop import Hook
from ekd_tf.training.loop import Step
from ekd_tf.training.loop import run_steps


def run(start, steps, *hooks):
    """Runs over batches that are their own numbers, counted from 0."""
    batches = iter(range(start, 100))
    run_steps(lambda batch: {"loss": 10 * batch}, batches, start, steps, hooks)


def test_every_acts_every_so_many_steps_and_after_the_last():
    for count, start, first, expected in (
        (2, 0, False, [2, 4, 6, 7]),
        (1, 5, False, [6, 7]),
        (0, 0, False, [7]),
        (3, 4, False, [6, 7]),
        (2, 7, False, []),
        (20, 0, True, [1, 7]),
        (1, 0, True, [1, 2, 3, 4, 5, 6, 7]),
        # A run that goes on has had its first step.
        (20, 2, True, [7]),
    ):
        acted: list[Step] = []
        run(start, 7, Every(count, acted.append, first))
        assert [step.number for step in acted] == expected


class Watcher(Hook):
    """Notes the order of all calls, of itself and of others."""

    def __init__(self, calls, stop_at=None):
        self.calls = calls
        self.stop_at = stop_at

    def before_step(self, number):
        self.calls.append(("before", number))

    def after_step(self, step):
        self.calls.append(step)
        if step.number == self.stop_at:
            raise KeyboardInterrupt

    def close(self):
        self.calls.append("close")


def test_hooks_are_called_around_every_step_in_order_and_at_the_end():
    calls = []
    run(4, 6, Watcher(calls), Every(1, lambda step: calls.append(step.number)))
    assert calls == [
        ("before", 5),
        Step(5, False, {"loss": 40}, 4),
        5,
        ("before", 6),
        Step(6, True, {"loss": 50}, 5),
        6,
        "close",
    ]


def test_a_hook_ends_the_run_by_raising_and_all_are_closed():
    calls, others = [], []
    with pytest.raises(KeyboardInterrupt):
        run(2, 6, Watcher(calls, stop_at=3), Watcher(others))
    assert calls[0] == ("before", 3) and calls[-1] == others[-1] == "close"
    assert len(calls) == 3 and len(others) == 2


def test_a_hook_that_cannot_be_closed_leaves_none_open():
    class Full(Watcher):
        def close(self):
            raise OSError("disk full")

    others = []
    with pytest.raises(OSError, match="disk full"):
        run(2, 3, Full([]), Watcher(others))
    assert others[-1] == "close"


def test_says_where_the_batches_ended():
    with pytest.raises(ValueError, match="last to step 200. They ended before 101"):
        run(98, 200)
