"""The loop around `train_step`: the same for every strategy, and resumable."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from ekd_tf.training.strategy import distribute


@dataclasses.dataclass
class Every:
    """Something to do after every so many steps, and after the last one.

    Attributes:
        steps: Int; 0 for after the last step only.
        action: Called with the number of steps made.
    """

    steps: int
    action: Callable[[int], None]


def compile_step(model, strategy):
    """Returns `step(batch) -> dict of scalars` as one traced function.

    Args:
        model: A compiled `FaceClassifier` or `Distiller`.
        strategy: The strategy in whose scope it was made.
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
    model,
    strategy,
    dataset,
    start_step: int,
    steps: int,
    batch_size: int,
    progress,
    log: Every,
    others: list[Every],
) -> None:
    """Trains from `start_step` to `steps`.

    Args:
        model: A compiled `FaceClassifier` or `Distiller`.
        strategy: Its strategy.
        dataset: `tf.data.Dataset` of global batches, the first of which belongs to
            `start_step`.
        start_step: Int: steps already made.
        steps: Int: steps to have been made at the end.
        batch_size: Int: rows of a global batch, for the speed shown.
        progress: `ProgressLine`.
        log: Its action is called as `action(step, scalars)` with tensors.
        others: Done in order after the logging; the progress line pauses for them.
    """
    step_function = compile_step(model, strategy)
    batches = iter(distribute(strategy, dataset))
    for step in range(start_step + 1, steps + 1):
        scalars = step_function(next(batches))
        terms = {name: v for name, v in scalars.items() if name.startswith("loss")}
        terms.pop("loss_scale", None)
        progress.update(batch_size, terms)
        last = step == steps
        if last or step % log.steps == 0:
            log.action(step, scalars)
        for other in others:
            if last or (other.steps and step % other.steps == 0):
                progress.pause()
                other.action(step)
