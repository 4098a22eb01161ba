"""What a run leaves behind while it goes on, and what may end it: its hooks.

Row 4 of the architecture, between the assembly and the session.
"""

from __future__ import annotations

from absl import logging

from ekd_tf.assembly import Parts
from ekd_tf.assembly import Values
from ekd_tf.evaluation import Models
from ekd_tf.evaluation import SourceEmbedder
from ekd_tf.evaluators import make_evaluations
from ekd_tf.training.best import BestMetric
from ekd_tf.training.checkpoints import CheckpointStore
from ekd_tf.training.faint_losses import FaintLossHook
from ekd_tf.training.guards import CollapseGuard
from ekd_tf.training.guards import UpdateGuard
from ekd_tf.training.interruption import Termination
from ekd_tf.training.interruption import TerminationHook
from ekd_tf.training.logs import MetricsLog
from ekd_tf.training.loop import Every
from ekd_tf.training.loop import Hook
from ekd_tf.training.loop import Step
from ekd_tf.training.profile import ProfileHook
from ekd_tf.training.profile import profiled_steps
from ekd_tf.training.progress import ProgressHook
from ekd_tf.training.progress import ProgressLine
from ekd_tf.training.strategy import has_other_workers
from ekd_tf.training.teacher_line import TeacherLine
from ekd_tf.training.workdir import Workdir


class Record:
    """The lines, evaluations and checkpoints of a run.

    Args:
        v: The flags of `ekd_tf.train`.
        workdir: `Workdir` of the reports.
        store: `CheckpointStore`.
        log: `MetricsLog`.
        best: `BestMetric`, as restored.
    """

    def __init__(
        self,
        v: Values,
        workdir: Workdir,
        store: CheckpointStore,
        log: MetricsLog,
        best: BestMetric,
    ):
        self._v = v
        self._workdir = workdir
        self._store = store
        self._log = log
        self._best = best
        self._saved_step = None

    def hooks(
        self, parts: Parts, progress: ProgressLine, strategy, termination: Termination
    ) -> list[Hook]:
        """Returns what to do after the steps, in order.

        Guards stand before what they guard; evaluations before the checkpoint, so
        that what its step has logged is complete.

        Args:
            parts: The run's parts.
            progress: Paused while something else takes long.
            strategy: The run's strategy.
            termination: Ends the run between two steps.
        """
        v, model = self._v, parts.model
        models = [lambda batch: model.student(batch["image"], training=False)]
        if parts.teacher is not None:
            models.append(model.teacher_rows)
        hooks = [
            # First, so that what the others do is in no trace.
            ProfileHook(self._workdir.tensorboard, profiled_steps(v.profile_steps)),
            ProgressHook(progress, parts.sampler.batch_size),
            UpdateGuard(
                v.max_bad_steps,
                v.precision == "mixed_float16",
                parts.train,
                models,
                self._workdir.reports,
                strategy.experimental_local_results,
            ),
        ]
        if v.collapse_steps:
            hooks.append(CollapseGuard(v.collapse_steps))
        hooks.append(FaintLossHook(progress.pause))
        hooks.append(Every(v.log_every, self._writing(progress)))

        def save(step):
            progress.pause()
            self._save(step, model)

        evaluations = make_evaluations(v.eval_sets, parts.heldout, v.seed)
        if evaluations:
            self._best.check_evaluated([evaluation.name for evaluation in evaluations])
            evaluate = self._evaluating(evaluations, parts, progress, save)
            hooks.append(Every(v.evaluate_every, evaluate))
        hooks.append(Every(v.checkpoint_every, save))
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

    def _evaluating(self, evaluations, parts, progress, save):
        student = SourceEmbedder(parts.model.student, self._v.input_size)
        # A teacher of which there is but a cache is asked of its own images alone.
        models = [
            Models(student, parts.teacher and parts.teacher.embedder_of(each.source))
            for each in evaluations
        ]
        line = TeacherLine(self._workdir.tensorboard, parts.steps)

        def evaluate(step):
            progress.pause()
            with parts.model.averaged_weights():
                results = [each(both) for each, both in zip(evaluations, models)]
            scalars, of_teacher = {}, {}
            for result, both in zip(results, models):
                result.write(self._workdir.reports)
                scalars.update(result.scalars())
                if both.teacher is not None:
                    of_teacher.update(result.scalars("teacher"))
                self._log.images(step.number, result.images)
                logging.info(
                    "Step %d, %s:\n%s", step.number, result.name, result.text()
                )
            self._log.write(step.number, scalars)
            line.draw(of_teacher)
            if self._best.offer(step.number, scalars):
                save(step)
                self._store.save_best(step.number)

        return evaluate

    def _save(self, step: Step, model):
        if step.number == self._saved_step:
            return
        self._log.flush()
        metadata = {"best": self._best.to_dict()}
        self._store.save(step.number, model.state(), metadata)
        self._saved_step = step.number
