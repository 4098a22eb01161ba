"""The loop around `train_step`: the same for every strategy, and resumable."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from collections.abc import Iterable

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Step:
    """An update that was just made, as hooks see it.

    `number` counts from 1. `scalars` are what `train_step` returned: reading one waits
    for the device. `batch` is of tensors, or of per-replica values.
    """

    number: int
    is_last: bool
    scalars: dict
    batch: dict


class Hook:
    """Something done between the updates of a run.

    A hook changes nothing the next update depends on, and ends the run by raising.
    """

    def before_step(self, number: int) -> None:
        """Called before the batch of update `number` is waited for."""

    def after_step(self, step: Step) -> None:
        """Called after every update, in the order of the hooks."""
        raise TypeError(f"{type(self).__name__} must define `after_step`.")

    def close(self) -> None:
        """Called once when the steps have ended, by an error or not."""


@dataclasses.dataclass(eq=False)
class Every(Hook):
    """Calls `action` after every so many steps (0: never), and after the last one.

    With `first` it is called after step 1, too.
    """

    steps: int
    action: Callable[[Step], None]
    first: bool = False

    def after_step(self, step: Step) -> None:
        is_due = self.steps and step.number % self.steps == 0
        if is_due or step.is_last or (self.first and step.number == 1):
            self.action(step)


def compile_step(model: tf.keras.Model, strategy: tf.distribute.Strategy) -> Callable:
    """Returns `step(batch) -> dict of scalars`, traced, of a compiled `FaceClassifier`.

    `strategy` is the one in whose scope the model was made.
    """

    # Nothing in a step branches on tensors in Python: converting it costs seconds.
    @tf.function(autograph=False)
    def step(batch):
        outputs = strategy.run(model.train_step, args=(batch,))
        # Every replica returns the scalars of the global batch.
        return {
            name: strategy.experimental_local_results(value)[0]
            for name, value in outputs.items()
        }

    return step


def run_steps(
    make_step: Callable[[dict], dict],
    batches: Iterable[dict],
    start_step: int,
    steps: int,
    hooks: Iterable[Hook],
) -> None:
    """Trains from `start_step` updates made to `steps`.

    `make_step` is from `compile_step`, the first of the distributed `batches` belongs
    to `start_step`, and hooks are called in their order.
    """
    batches, hooks = iter(batches), list(hooks)
    # Closes every hook, also where another one's `close` fails.
    with contextlib.ExitStack() as closing:
        for hook in reversed(hooks):
            closing.callback(hook.close)
        for number in range(start_step + 1, steps + 1):
            for hook in hooks:
                hook.before_step(number)
            batch = next(batches, None)
            if batch is None:
                raise ValueError(
                    f"`batches` must last to step {steps}. They ended before {number}"
                )
            step = Step(number, number == steps, make_step(batch), batch)
            for hook in hooks:
                hook.after_step(step)
