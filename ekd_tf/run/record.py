"""What a run leaves behind while it goes on, and what may end it: its hooks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from absl import logging

from ekd_tf.data.unreadable import explain
from ekd_tf.evaluation import Models
from ekd_tf.evaluation import SourceEmbedder
from ekd_tf.run import hooks
from ekd_tf.run.assembly import Parts
from ekd_tf.run.checkpoints import CheckpointStore
from ekd_tf.run.config import FREE
from ekd_tf.run.config import TrainConfig
from ekd_tf.run.interruption import Termination
from ekd_tf.run.logs import MetricsLog
from ekd_tf.run.logs import draw_teacher
from ekd_tf.run.progress import ProgressHook
from ekd_tf.run.progress import ProgressLine
from ekd_tf.run.progress import begin_line
from ekd_tf.run.workdir import Workdir
from ekd_tf.training.loop import Every
from ekd_tf.training.loop import Hook
from ekd_tf.training.loop import Step
from ekd_tf.training.strategy import has_other_workers


@dataclasses.dataclass
class Record:
    """The lines, evaluations and checkpoints of a run.

    Attributes:
        start_step: Updates made before.
        evaluated: The last step that was evaluated, or None.
        failure: What ended the last evaluation early, or None.
    """

    config: TrainConfig
    parts: Parts
    workdir: Workdir
    store: CheckpointStore
    start_step: int = 0
    evaluated: int | None = None
    failure: str | None = None

    def __post_init__(self) -> None:
        # Step and evaluation of the last checkpoint.
        self._saved = self.start_step, self.evaluated
        self._log: Any = None

    @property
    def is_pending(self) -> bool:
        """Whether the evaluation that belongs to the restored step is missing."""
        step, every = self.start_step, self.config.evaluate_every
        due = step == self.parts.steps or every and step % every == 0
        evaluations = self.parts.evaluations
        return bool(evaluations and step and due and self.evaluated != step)

    def open_log(self) -> MetricsLog:
        """Opens the run's metrics as they were at its first step, for the hooks."""
        settings = {
            name: ",".join(value) if isinstance(value, list) else value
            for name, value in self.config.to_record().items()
            if name not in FREE and value is not None
        }
        names = tuple(f"{e.name}/" for e in self.parts.evaluations)
        again = names if self.is_pending else ()
        self._log = MetricsLog(self.workdir.path, self.start_step, again, settings)
        return self._log

    def hooks(
        self,
        progress: ProgressLine,
        strategy: tf.distribute.Strategy,
        termination: Termination,
    ) -> list[Hook]:
        """Returns what to do after the steps, in order.

        Guards stand before what they guard, and checkpoints before evaluations: one
        that fails costs no step.
        """
        config, parts, model = self.config, self.parts, self.parts.model
        models: dict[str, Callable] = {
            "student": lambda batch: model.backbone(batch["image"], training=False)
        }
        if parts.teacher is not None:
            models["teacher"] = model.teacher_rows  # type: ignore[attr-defined]
        made = [
            # First, so that what the others do is in no trace.
            hooks.ProfileHook(
                self.workdir.path, hooks.profiled_steps(config.profile_steps)
            ),
            ProgressHook(progress, parts.sampler.batch_size),
            hooks.UpdateGuard(
                config.max_bad_steps,
                config.precision == "mixed_float16",
                parts.train,
                models,
                self.workdir.reports,
                strategy.experimental_local_results,
            ),
        ]
        if config.distill:
            made.append(hooks.FaintLossHook(progress.pause))
        if config.collapse_steps:
            made.append(hooks.CollapseGuard(config.collapse_steps))

        def write(step):
            speed = progress.per_second
            throughput = {"throughput/images_per_second": speed} if speed else {}
            self._log.write(step.number, {**step.scalars, **throughput})

        def save(step):
            progress.pause()
            self._save(step.number)

        made += [
            # Without the first a short run would be a point in its charts.
            Every(config.log_every, write, first=True),
            Every(config.checkpoint_every, save),
        ]
        if parts.evaluations:
            evaluate = self._evaluation(progress)
            made.append(Every(config.evaluate_every, evaluate))
            if self.is_pending:
                evaluate(Step(self.start_step, False, {}, {}))
        workers = strategy if has_other_workers(strategy) else None
        made.append(hooks.TerminationHook(termination, save, workers))
        return made

    def _evaluation(self, progress):
        """Returns the function of a step that evaluates."""
        parts, reports = self.parts, self.workdir.reports
        student = SourceEmbedder(
            parts.model.backbone, self.config.input_size, progress=begin_line
        )
        # A teacher of which there is but a cache is asked of its own images alone.
        models = [
            Models(student, parts.teacher and parts.teacher.embedder_of(each.source))
            for each in parts.evaluations
        ]

        def report(number):
            with parts.model.averaged_weights():
                results = [each(both) for each, both in zip(parts.evaluations, models)]
            scalars, teacher_scalars = {}, {}
            for result, both in zip(results, models):
                result.write(reports)
                scalars.update(result.scalars())
                if both.teacher is not None:
                    teacher_scalars.update(result.scalars("teacher"))
                self._log.images(number, result.images)
                logging.info("Step %d, %s:\n%s", number, result.name, result.report())
            self._log.write(number, scalars)
            draw_teacher(self.workdir.path, parts.steps, teacher_scalars)

        def evaluate(step):
            progress.pause()
            self._save(step.number)
            try:
                report(step.number)
            # Whatever is wrong with a report, the steps go on: they cost more.
            except Exception as error:
                reason = explain(error, way_out="")
                self.failure = f"The evaluation at step {step.number} failed: {reason}"
                # The words of these say enough without a traceback.
                plain = isinstance(error, (OSError, ValueError))
                logging.error("%s", self.failure, exc_info=not plain)
                return
            self.failure = None
            self.evaluated = step.number
            self._save(step.number)

        return evaluate

    def _save(self, number):
        if self._saved == (number, self.evaluated):
            return
        self._log.flush()
        metadata = {"evaluated": self.evaluated}
        self.store.save(number, self.parts.model.state(), metadata)
        self._saved = number, self.evaluated
