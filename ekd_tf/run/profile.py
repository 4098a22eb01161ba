"""A hook that records what the machine does during some steps, for TensorBoard."""

from __future__ import annotations

import os
import re
from typing import Any

import tensorflow as tf

from ekd_tf.run.logs import naming_tensorboard
from ekd_tf.training.loop import Hook
from ekd_tf.training.loop import Step


def profiled_steps(text: str | None) -> range:
    """Reads "FIRST:LAST", numbers of updates from 1, both included; "" is none."""
    if not text:
        return range(0)
    match = re.fullmatch(r"([0-9]+):([0-9]+)", text)
    first, last = map(int, match.groups()) if match else (0, 0)
    if not 1 <= first <= last:
        raise ValueError(
            "`profile_steps` must be FIRST:LAST, two steps counted from 1, as in "
            f"10:12. Received: {text!r}"
        )
    return range(first, last + 1)


class ProfileHook(Hook):
    """Writes a trace of some updates, the wait for their batches included.

    TensorBoard shows it under Profile (`tensorboard-plugin-profile`), step by step. A
    resumed run traces those of the steps it makes itself. The device is waited for
    before the first of the steps and after each one, so that the work of other steps
    stays out.

    Args:
        folder: The run's folder; the trace is in `plugins/profile/TIME/`.
        steps: From `profiled_steps`.
    """

    def __init__(self, folder: str | os.PathLike, steps: range):
        self._folder = folder
        self._steps = steps
        self._running = False
        self._mark: Any = None
        self._previous: Step | None = None

    def before_step(self, number: int) -> None:
        if number not in self._steps:
            return
        if not self._running:
            _wait_for(self._previous)
            self._previous = None
            with naming_tensorboard(self._folder):
                tf.profiler.experimental.start(os.fspath(self._folder))
            self._running = True
        # By this mark the profile knows where a step begins and ends.
        self._mark = tf.profiler.experimental.Trace("train", step_num=number, _r=1)
        self._mark.__enter__()

    def after_step(self, step: Step) -> None:
        if not self._running:
            # Kept no longer than needed: a step holds its batch.
            self._previous = step if step.number + 1 in self._steps else None
            return
        _wait_for(step)
        self._end_mark()
        if step.number == self._steps[-1]:
            self.close()

    def close(self) -> None:
        """Writes the trace of a run that ends within the range."""
        self._end_mark()
        if self._running:
            self._running = False
            with naming_tensorboard(self._folder):
                tf.profiler.experimental.stop()

    def _end_mark(self):
        if self._mark is not None:
            self._mark.__exit__(None, None, None)
            self._mark = None


def _wait_for(step):
    if step is not None:
        float(step.scalars["loss"])
