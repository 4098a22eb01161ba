"""What a run leaves behind while it goes on, and what may end it: its hooks.

Row 4 of the architecture, between the assembly and the session.
"""

from __future__ import annotations

from absl import logging

from ekd_tf.evaluation import Models
from ekd_tf.evaluation import SourceEmbedder
from ekd_tf.run.assembly import Parts
from ekd_tf.run.best import BestMetric
from ekd_tf.run.checkpoints import CheckpointStore
from ekd_tf.run.config import TrainConfig
from ekd_tf.run.guards import CollapseGuard
from ekd_tf.run.guards import FaintLossHook
from ekd_tf.run.guards import UpdateGuard
from ekd_tf.run.interruption import Termination
from ekd_tf.run.interruption import TerminationHook
from ekd_tf.run.logs import MetricsLog
from ekd_tf.run.logs import TeacherLine
from ekd_tf.run.profile import ProfileHook
from ekd_tf.run.profile import profiled_steps
from ekd_tf.run.progress import ProgressHook
from ekd_tf.run.progress import ProgressLine
from ekd_tf.run.workdir import Workdir
from ekd_tf.training.loop import Every
from ekd_tf.training.loop import Hook
from ekd_tf.training.loop import Step
from ekd_tf.training.strategy import has_other_workers


class Record:
    """The lines, evaluations and checkpoints of a run.

    Args:
        config: Of the run.
        workdir: `Workdir` of the reports.
        store: `CheckpointStore`.
        log: `MetricsLog`.
        best: `BestMetric`, as restored.
        start_step: Int: updates made so far.
        evaluated: Int or None: the last step that was evaluated, as restored.

    Attributes:
        failure: String: what ended the last evaluation early, or None.
    """

    def __init__(
        self,
        config: TrainConfig,
        workdir: Workdir,
        store: CheckpointStore,
        log: MetricsLog,
        best: BestMetric,
        start_step: int = 0,
        evaluated: int | None = None,
    ):
        self._config = config
        self._workdir = workdir
        self._store = store
        self._log = log
        self._best = best
        self._start_step = start_step
        self._saved_step = start_step or None
        self._evaluated = evaluated
        self.failure = None

    def hooks(
        self, parts: Parts, progress: ProgressLine, strategy, termination: Termination
    ) -> list[Hook]:
        """Returns what to do after the steps, in order.

        Guards stand before what they guard; the checkpoint before the evaluation, so
        that no evaluation, report or plot that fails costs a step.

        Args:
            parts: The run's parts.
            progress: Paused while something else takes long.
            strategy: The run's strategy.
            termination: Ends the run between two steps.
        """
        config, model = self._config, parts.model
        models = [lambda batch: model.backbone(batch["image"], training=False)]
        if parts.teacher is not None:
            models.append(model.teacher_rows)
        hooks = [
            # First, so that what the others do is in no trace.
            ProfileHook(
                self._workdir.tensorboard, profiled_steps(config.profile_steps)
            ),
            ProgressHook(progress, parts.sampler.batch_size),
            UpdateGuard(
                config.max_bad_steps,
                config.precision == "mixed_float16",
                parts.train,
                models,
                self._workdir.reports,
                strategy.experimental_local_results,
            ),
        ]
        if config.collapse_steps:
            hooks.append(CollapseGuard(config.collapse_steps))
        hooks.append(FaintLossHook(progress.pause))
        hooks.append(Every(config.log_every, self._writing(progress)))

        def save(step):
            progress.pause()
            self._save(step.number, model)

        hooks.append(Every(config.checkpoint_every, save))
        if parts.evaluations:
            evaluate = self._evaluating(parts, progress)
            hooks.append(Every(config.evaluate_every, evaluate))
            if is_pending(config, parts, self._start_step, self._evaluated):
                evaluate(Step(self._start_step, False, {}, {}))
        workers = strategy if has_other_workers(strategy) else None
        hooks.append(TerminationHook(termination, save, workers))
        return hooks

    def _writing(self, progress):
        def write(step):
            scalars = step.scalars
            speed = progress.per_second
            if speed is not None:
                scalars = {**scalars, "throughput/images_per_second": speed}
            self._log.write(step.number, scalars)

        return write

    def _evaluating(self, parts, progress):
        student = SourceEmbedder(parts.model.backbone, self._config.input_size)
        # A teacher of which there is but a cache is asked of its own images alone.
        models = [
            Models(student, parts.teacher and parts.teacher.embedder_of(each.source))
            for each in parts.evaluations
        ]
        line = TeacherLine(self._workdir.tensorboard, parts.steps)

        def report(number):
            with parts.model.averaged_weights():
                results = [each(both) for each, both in zip(parts.evaluations, models)]
            scalars, of_teacher = {}, {}
            for result, both in zip(results, models):
                result.write(self._workdir.reports)
                scalars.update(result.scalars())
                if both.teacher is not None:
                    of_teacher.update(result.scalars("teacher"))
                self._log.images(number, result.images)
                logging.info("Step %d, %s:\n%s", number, result.name, result.report())
            self._log.write(number, scalars)
            line.draw(of_teacher)
            return scalars

        def evaluate(step):
            progress.pause()
            self._save(step.number, parts.model)
            try:
                is_best = self._best.offer(step.number, report(step.number))
            # Whatever is wrong with a report, the steps go on: they cost more.
            except Exception as error:
                self.failure = f"The evaluation at step {step.number} failed: {error}"
                logging.error("%s", self.failure, exc_info=not _is_plain(error))
                return
            self.failure = None
            self._evaluated = step.number
            self._saved_step = None
            self._save(step.number, parts.model)
            if is_best:
                self._store.save_best(step.number)

        return evaluate

    def _save(self, number, model):
        if number == self._saved_step:
            return
        self._log.flush()
        metadata = {"best": self._best.to_dict(), "evaluated": self._evaluated}
        self._store.save(number, model.state(), metadata)
        self._saved_step = number


def is_pending(
    config: TrainConfig, parts: Parts, step: int, evaluated: int | None
) -> bool:
    """Tells whether the evaluation that belongs to a restored step is missing.

    Args:
        config: Of the run.
        parts: The run's parts.
        step: Int: updates made so far.
        evaluated: Int or None: the last step that was evaluated.
    """
    due = (
        step == parts.steps
        or config.evaluate_every
        and step % config.evaluate_every == 0
    )
    return bool(parts.evaluations and step and due and evaluated != step)


def _is_plain(error):
    """Whether the words of an error say enough without a traceback."""
    return isinstance(error, (OSError, ValueError))
