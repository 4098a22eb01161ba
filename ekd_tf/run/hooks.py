"""What watches a run between its steps: guards, a profile, an end on demand."""

from __future__ import annotations

import abc
import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from ekd_tf.data import Source
from ekd_tf.evaluation.verification import COLLAPSED_COSINE
from ekd_tf.files.user_text import KEEP
from ekd_tf.files.user_text import one_line
from ekd_tf.run.interruption import Interrupted
from ekd_tf.run.interruption import Termination
from ekd_tf.run.logs import naming_tensorboard
from ekd_tf.training.loop import Hook
from ekd_tf.training.loop import Step
from ekd_tf.training.strategy import sum_over_replicas_of
from ekd_tf.training.update import MIN_LOSS_SCALE

# How many images a message names; the file it points to has all.
_NAMED = 10
# A loss whose gradient is a smaller part of the margin loss's is called faint.
_FAINT_RATIO = 0.01


class LateHook(Hook, abc.ABC):
    """Looks at each step's scalars while the device is busy with the next.

    Reading a scalar waits for the step it comes from: read at once, host and device
    would take turns. The last step of a run is read at once.
    """

    _previous: Step | None = None

    def after_step(self, step: Step) -> None:
        if self._previous is not None:
            self.look(self._previous)
        self._previous = step
        if step.is_last:
            self.look(step)

    @abc.abstractmethod
    def look(self, step: Step) -> None:
        """Judges one step."""


@dataclasses.dataclass(eq=False)
class UpdateGuard(LateHook):
    """Ends the run when update after update is skipped for NaN or infinity.

    A skipped update changes nothing, so the weights are those of the last good one. One
    that is skipped at the smallest loss scale, where it is dynamic, ends the run at
    once. Images of the bad batches are named in `reports`/bad_steps.txt.

    `models` are functions of a batch to embeddings by what messages call the model, to
    find the images at fault, and `local_values` one of a value of the batch to the
    tensors of this process.
    """

    max_bad_steps: int
    dynamic_scaling: bool
    source: Source
    models: Mapping[str, Callable]
    reports: pathlib.Path
    local_values: Callable = lambda value: (value,)

    def __post_init__(self) -> None:
        # Of the bad steps since the last good one.
        self._image_ids: dict[int, np.ndarray] = {}

    def look(self, step: Step) -> None:
        if not math.isnan(float(step.scalars["gradient_norm"])):
            self._image_ids.clear()
            return
        ids = [np.asarray(part) for part in self.local_values(step.batch["image_id"])]
        self._image_ids[step.number] = np.concatenate(ids)
        scale, count = float(step.scalars["loss_scale"]), len(self._image_ids)
        if self.dynamic_scaling and scale <= MIN_LOSS_SCALE:
            raise ValueError(
                f"The loss scale has collapsed: at step {step.number} loss or gradient "
                f"are not finite even at scale {scale:g}. {self._images(step)} Lower "
                "--learning_rate, or use --precision=mixed_bfloat16"
            )
        if count >= self.max_bad_steps:
            raise ValueError(
                f"Loss or gradient of the last {count} steps, up to step "
                f"{step.number}, are not finite (--max_bad_steps="
                f"{self.max_bad_steps}). {self._images(step)} Lower --learning_rate, "
                "or add --warmup_steps or --clip_norm"
            )

    def _images(self, step):
        """Writes down the images of the bad steps; returns a sentence about them."""
        rows = [
            f"{number}\t{one_line(self.source.describe(int(index)))}\n"
            for number, ids in self._image_ids.items()
            for index in ids
        ]
        path = self.reports / "bad_steps.txt"
        path.write_text("".join(rows), encoding="utf-8", errors=KEEP)
        ids = self._image_ids[step.number]
        finite = self._finite_rows(step.batch)
        at_fault = ids[~np.all([*finite.values()], axis=0)]
        if len(at_fault) == 0:
            return f"No image is at fault alone; the batches are in {path}."
        names = [self.source.describe(int(i)) for i in at_fault[:_NAMED]]
        if len(at_fault) > _NAMED:
            names.append(f"and {len(at_fault) - _NAMED} more")
        givers = [name for name, rows in finite.items() if not rows.all()]
        return (
            f"{len(at_fault)} of the last batch's {len(ids)} images have no finite "
            f"embedding by the {' and the '.join(givers)}: {', '.join(names)}. All "
            f"batches are in {path}."
        )

    def _finite_rows(self, batch):
        """Returns which rows of a batch are finite, by model."""
        columns = [self.local_values(values) for values in batch.values()]
        parts = [dict(zip(batch, values)) for values in zip(*columns)]
        return {
            name: np.isfinite(np.concatenate([embed(part) for part in parts])).all(1)
            for name, embed in self.models.items()
        }


@dataclasses.dataclass(eq=False)
class CollapseGuard(LateHook):
    """Ends the run after so many steps with a mean cosine above 0.99 in a row."""

    steps: int
    _collapsed: int = 0

    def look(self, step: Step) -> None:
        cosine = float(step.scalars["embedding/mean_cosine"])
        self._collapsed = self._collapsed + 1 if cosine > COLLAPSED_COSINE else 0
        if self._collapsed >= self.steps:
            raise ValueError(
                f"The embeddings have collapsed: for {self.steps} steps, up to step "
                f"{step.number}, the mean cosine between the images of a batch was "
                f"above {COLLAPSED_COSINE} (now {cosine:.4f}). Lower --learning_rate "
                "or the weights of --distill, or leave out ekd_reference and "
                "threshold_gradient=false; --collapse_steps=0 goes on regardless"
            )


@dataclasses.dataclass(eq=False)
class FaintLossHook(LateHook):
    """Warns, once of each distillation loss, that it hardly has a gradient.

    That is a `gradient_ratio/NAME` below 1 % for so many steps in a row, skipped ones
    not counted.
    """

    pause: Callable[[], None] = lambda: None
    steps: int = 500

    def __post_init__(self) -> None:
        # Name of the loss -> its faint ratios since the last that was not.
        self._faint: dict[str, list[float]] = {}

    def look(self, step: Step) -> None:
        for key, value in step.scalars.items():
            kind, _, name = key.partition("/")
            if kind != "gradient_ratio" or math.isnan(float(value)):
                continue
            ratios = self._faint.setdefault(name, [])
            if len(ratios) == self.steps:
                continue
            ratios.append(float(value))
            if ratios[-1] >= _FAINT_RATIO:
                ratios.clear()
            if len(ratios) == self.steps:
                self.pause()
                logging.warning(
                    "For %d steps, up to step %d, the gradient of %r on the embeddings "
                    "was below 1 %% of the margin loss's: %.2g %% on average at weight "
                    "%.4g. --distill=%s:30%% makes it 30 %% and keeps it there.",
                    *(self.steps, step.number, name, 100 * np.mean(ratios)),
                    *(float(step.scalars[f"weight/{name}"]), name),
                )


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


@dataclasses.dataclass(eq=False)
class ProfileHook(Hook):
    """Writes a trace of some updates, the wait for their batches included.

    It is in `plugins/profile/TIME/` of the folder, for TensorBoard's Profile page. The
    device is waited for around each step, so that the work of others stays out.
    """

    folder: str | os.PathLike
    steps: range
    _running: bool = False
    _mark: Any = None

    def before_step(self, number: int) -> None:
        if number not in self.steps:
            return
        if not self._running:
            tf.test.experimental.sync_devices()
            with naming_tensorboard(self.folder):
                tf.profiler.experimental.start(os.fspath(self.folder))
            self._running = True
        # By this mark the profile knows where a step begins and ends.
        self._mark = tf.profiler.experimental.Trace("train", step_num=number, _r=1)
        self._mark.__enter__()

    def after_step(self, step: Step) -> None:
        if self._running:
            # Waits for the device.
            float(step.scalars["loss"])
            self._end_mark()
            if step.number == self.steps[-1]:
                self.close()

    def close(self) -> None:
        """Writes the trace of a run that ends within the range."""
        self._end_mark()
        if self._running:
            self._running = False
            with naming_tensorboard(self.folder):
                tf.profiler.experimental.stop()

    def _end_mark(self):
        if self._mark is not None:
            self._mark.__exit__(None, None, None)
            self._mark = None


class TerminationHook(Hook):
    """Saves and ends a run after the step in which a signal arrived; belongs last.

    The signal may reach any of several workers, whose strategy is given then: after
    every step they ask each other, and all leave after the same one.
    """

    def __init__(
        self,
        termination: Termination,
        save: Callable[[Step], Any],
        strategy: tf.distribute.Strategy | None = None,
    ):
        self._termination = termination
        self._save = save
        self._ask_all = None if strategy is None else sum_over_replicas_of(strategy)
        if strategy is not None:
            # One that left alone within the first step would hang the others.
            termination.between_steps = True
        self._answer = None

    def after_step(self, step: Step) -> None:
        self._termination.between_steps = not step.is_last
        if self._is_asked():
            self._save(step)
            raise Interrupted(
                f"{self._termination.name}: the run is saved at step {step.number}."
            )

    def _is_asked(self):
        if self._ask_all is None:
            return self._termination.asked
        # The answer to the last step's question: no step waits for the network.
        asked = float(self._termination.asked)
        answer, self._answer = self._answer, self._ask_all(asked)
        return answer is not None and bool(answer)
