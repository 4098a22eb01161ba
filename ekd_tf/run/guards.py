"""Hooks that end a run which has gone wrong, or warn of a loss that does nothing."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable
from collections.abc import Iterable

import numpy as np
from absl import logging

from ekd_tf.data import Source
from ekd_tf.files.user_text import KEEP
from ekd_tf.files.user_text import one_line
from ekd_tf.training.loop import Hook
from ekd_tf.training.loop import Step
from ekd_tf.training.update import MIN_LOSS_SCALE

# How many images a message names; the file it points to has all.
_NAMED = 10

# Beyond it all images of a batch are one to a verifier.
COLLAPSED_COSINE = 0.99

# A loss whose gradient is a smaller part of the margin loss's is called faint.
FAINT_RATIO = 0.01


class RunStopped(ValueError):
    """A guard ended the run. The message says why and what to do."""


class LateHook(Hook):
    """Looks at each step's scalars while the device is busy with the next.

    Reading a scalar waits for the step it comes from: read at once, host and device
    would take turns. The last step of a run is read at once.
    """

    def __init__(self) -> None:
        self._previous: Step | None = None

    def after_step(self, step: Step) -> None:
        if self._previous is not None:
            self.look(self._previous)
        self._previous = step
        if step.is_last:
            self.look(step)

    def look(self, step: Step) -> None:
        """Judges one step."""
        raise TypeError(f"{type(self).__name__} must define `look`.")


class UpdateGuard(LateHook):
    """Ends the run when update after update is skipped for NaN or infinity.

    A skipped update changes nothing, so the weights are those of the last good one.
    Under dynamic loss scaling an update that is skipped at the smallest scale ends
    the run at once: no smaller scale could mend it.

    Args:
        max_bad_steps: Consecutive skipped updates that end the run.
        dynamic_scaling: Whether the run's loss scale adapts.
        source: The training images, to name those of the bad batches.
        models: Functions of a batch to embeddings, to find the images at fault.
        reports: Folder for `bad_steps.txt`: the images of all the bad batches.
        local_values: Function of a value of the batch: the tensors of this process.
    """

    def __init__(
        self,
        max_bad_steps: int,
        dynamic_scaling: bool,
        source: Source,
        models: Iterable[Callable],
        reports: pathlib.Path,
        local_values: Callable = lambda value: (value,),
    ):
        super().__init__()
        self.max_bad_steps = max_bad_steps
        self._dynamic_scaling = dynamic_scaling
        self._source = source
        self._models = list(models)
        self._path = reports / "bad_steps.txt"
        self._local_values = local_values
        # Of the bad steps since the last good one.
        self._image_ids: dict[int, np.ndarray] = {}

    def look(self, step: Step) -> None:
        if not math.isnan(float(step.scalars["gradient_norm"])):
            self._image_ids.clear()
            return
        ids = [np.asarray(part) for part in self._local_values(step.batch["image_id"])]
        self._image_ids[step.number] = np.concatenate(ids)
        scale, count = float(step.scalars["loss_scale"]), len(self._image_ids)
        if self._dynamic_scaling and scale <= MIN_LOSS_SCALE:
            raise RunStopped(
                f"The loss scale has collapsed: at step {step.number} loss or gradient "
                f"are not finite even at scale {scale:g}. {self._images(step)} Lower "
                "--learning_rate, or use --precision=mixed_bfloat16"
            )
        if count >= self.max_bad_steps:
            raise RunStopped(
                f"Loss or gradient of the last {count} steps, up to step "
                f"{step.number}, are not finite (--max_bad_steps="
                f"{self.max_bad_steps}). {self._images(step)} Lower --learning_rate, "
                "or add --warmup_steps or --clip_norm"
            )

    def _images(self, step):
        """Writes down the images of the bad steps; returns a sentence about them."""
        rows = [
            f"{number}\t{one_line(self._source.describe(int(index)))}\n"
            for number, ids in self._image_ids.items()
            for index in ids
        ]
        self._path.write_text("".join(rows), encoding="utf-8", errors=KEEP)
        ids = self._image_ids[step.number]
        at_fault = ids[~self._finite_rows(step.batch)]
        if len(at_fault) == 0:
            return f"No image is at fault alone; the batches are in {self._path}."
        names = [self._source.describe(int(i)) for i in at_fault[:_NAMED]]
        if len(at_fault) > _NAMED:
            names.append(f"and {len(at_fault) - _NAMED} more")
        return (
            f"{len(at_fault)} of the last batch's {len(ids)} images have no finite "
            f"embedding: {', '.join(names)}. All batches are in {self._path}."
        )

    def _finite_rows(self, batch):
        finite = []
        columns = [self._local_values(values) for values in batch.values()]
        for parts in zip(*columns):
            part = dict(zip(batch, parts))
            rows = [np.isfinite(np.asarray(embed(part))) for embed in self._models]
            finite.append(np.concatenate(rows, axis=1).all(axis=1))
        return np.concatenate(finite)


class CollapseGuard(LateHook):
    """Ends the run after so many steps with a mean cosine above 0.99 in a row."""

    def __init__(self, steps: int):
        super().__init__()
        self._steps = steps
        self._collapsed = 0

    def look(self, step: Step) -> None:
        cosine = float(step.scalars["embedding/mean_cosine"])
        self._collapsed = self._collapsed + 1 if cosine > COLLAPSED_COSINE else 0
        if self._collapsed >= self._steps:
            raise RunStopped(
                f"The embeddings have collapsed: for {self._steps} steps, up to step "
                f"{step.number}, the mean cosine between the images of a batch was "
                f"above {COLLAPSED_COSINE} (now {cosine:.4f}). Lower --learning_rate "
                "or the weights of --distill, or leave out ekd_reference and "
                "threshold_gradient=false; --collapse_steps=0 goes on regardless"
            )


class FaintLossHook(LateHook):
    """Warns, once of each distillation loss, that it hardly has a gradient.

    It reads `gradient_ratio/NAME` and `weight/NAME` of a `Distiller`.

    Args:
        pause: Called before a warning is logged.
        steps: Steps with a ratio below 1 % in a row that are warned of, those not
            counted that were skipped.
    """

    def __init__(self, pause: Callable[[], None] = lambda: None, steps: int = 500):
        super().__init__()
        self._pause = pause
        self._steps = steps
        self._faint: dict[str, list[float]] = {}

    def look(self, step: Step) -> None:
        for key, value in step.scalars.items():
            kind, _, name = key.partition("/")
            ratio = float(value) if kind == "gradient_ratio" else math.nan
            ratios = self._faint.setdefault(name, [])
            if math.isnan(ratio) or len(ratios) == self._steps:
                continue
            ratios.append(ratio)
            if ratio >= FAINT_RATIO:
                ratios.clear()
            if len(ratios) == self._steps:
                self._pause()
                weight, mean = float(step.scalars[f"weight/{name}"]), np.mean(ratios)
                logging.warning(
                    "For %d steps, up to step %d, the gradient of %r on the embeddings "
                    "was below 1 %% of the margin loss's: %.2g %% on average at weight "
                    "%.4g. --distill=%s:30%% makes it 30 %% and keeps it there.",
                    *(self._steps, step.number, name, 100 * mean, weight, name),
                )
