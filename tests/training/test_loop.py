import numpy as np
import pytest
import tensorflow as tf
from toys import backbone
from toys import batch

from ekd_tf.heads import ArcFace
from ekd_tf.training.classifier import FaceClassifier
from ekd_tf.training.loop import Every
from ekd_tf.training.loop import Hook
from ekd_tf.training.loop import Step
from ekd_tf.training.loop import compile_step
from ekd_tf.training.loop import run_steps


def make():
    model = FaceClassifier(backbone(), ArcFace(num_identities=3, scale=4.0))
    model.compile(tf.keras.optimizers.SGD(0.1))
    return model


class Recorder(Hook):
    def __init__(self):
        self.steps = []

    def after_step(self, step):
        self.steps.append(step)


def run(start, steps, *hooks):
    """Runs over batches that are their own numbers, counted from 0."""
    batches = iter(range(start, 100))
    run_steps(lambda batch: {"loss": 10 * batch}, batches, start, steps, hooks)


def numbers_every(count, start, steps):
    numbers = []
    run(start, steps, Every(count, lambda step: numbers.append(step.number)))
    return numbers


@pytest.mark.parametrize(
    ("count", "start", "numbers"),
    [
        (2, 0, [2, 4, 6, 7]),
        (3, 0, [3, 6, 7]),
        (1, 5, [6, 7]),
        (0, 0, [7]),
        (3, 4, [6, 7]),
        (2, 7, []),
    ],
)
def test_every_acts_every_so_many_steps_and_after_the_last(count, start, numbers):
    assert numbers_every(count, start, 7) == numbers


def test_hooks_are_told_of_every_step_in_order():
    order = []
    recorder = Recorder()
    run(
        4,
        6,
        Every(1, lambda step: order.append(("first", step.number))),
        recorder,
        Every(1, lambda step: order.append(("second", step.number))),
    )
    assert order == [("first", 5), ("second", 5), ("first", 6), ("second", 6)]
    assert recorder.steps == [
        Step(5, False, {"loss": 40}, 4),
        Step(6, True, {"loss": 50}, 5),
    ]


def test_a_hook_ends_the_run_by_raising():
    def stop(step):
        raise KeyboardInterrupt

    after = Recorder()
    with pytest.raises(KeyboardInterrupt):
        run(0, 9, Every(3, stop), after)
    assert [step.number for step in after.steps] == [1, 2]


def test_a_hook_must_say_what_it_does():
    with pytest.raises(TypeError, match="Hook must define `after_step`"):
        run(0, 1, Hook())


def test_step_is_traced_once(rng):
    model = make()
    step = compile_step(model, tf.distribute.get_strategy())
    for _ in range(3):
        out = step(batch(rng))
    assert step.experimental_get_tracing_count() == 1
    assert np.isfinite(float(out["loss"]))


class Told(Recorder):
    """Notes the order of all it is told."""

    def before_step(self, number):
        self.steps.append(("before", number))

    def after_step(self, step):
        self.steps.append(("after", step.number))
        if step.number == 3:
            raise KeyboardInterrupt

    def close(self):
        self.steps.append("close")


def test_hooks_are_told_before_each_step_and_at_the_end():
    hook = Told()
    run(4, 6, hook)
    numbers = [(when, number) for number in (5, 6) for when in ("before", "after")]
    assert hook.steps == [*numbers, "close"]


def test_hooks_are_closed_when_a_step_or_a_hook_fails():
    hook = Told()
    with pytest.raises(KeyboardInterrupt):
        run(2, 6, hook)
    assert hook.steps == [("before", 3), ("after", 3), "close"]
