"""One training run from its settings: what `ekd_tf.train` does with its flags.

Row 4 of the architecture, above the assembly: plain values in, a workdir out.
"""

from __future__ import annotations

import contextlib
import json
import tempfile

import keras
import tensorflow as tf
from absl import logging

from ekd_tf import factory
from ekd_tf.assembly import Parts
from ekd_tf.assembly import Values
from ekd_tf.assembly import assemble
from ekd_tf.data import make_pipeline
from ekd_tf.evaluation import HeldoutEvaluation
from ekd_tf.export import export_student
from ekd_tf.teachers import MODEL_FILE
from ekd_tf.training.checkpoints import CheckpointStore
from ekd_tf.training.logs import MetricsLog
from ekd_tf.training.loop import Every
from ekd_tf.training.loop import Hook
from ekd_tf.training.loop import compile_step
from ekd_tf.training.loop import run_steps
from ekd_tf.training.progress import ProgressHook
from ekd_tf.training.progress import ProgressLine
from ekd_tf.training.strategy import distribute
from ekd_tf.training.strategy import is_chief
from ekd_tf.training.strategy import make_strategy
from ekd_tf.training.strategy import set_virtual_devices
from ekd_tf.training.workdir import Workdir
from ekd_tf.training.workdir import package_versions


class TrainingSession:
    """Builds everything a run needs, then trains, evaluates and exports.

    Args:
        values: The flags of `ekd_tf.train`, by name.

    Raises:
        ValueError: A value is wrong, by itself or beside the others or the data.
    """

    def __init__(self, values: dict):
        self._values = dict(values)
        self._v = Values(values)

    def run(self, command: list[str], free=()) -> None:
        """Trains to the end, or resumes and does so.

        Args:
            command: The command line, recorded in the workdir.
            free: Names of values that may differ from the recorded ones on resume.
        """
        v = self._v
        workdir = Workdir(v.workdir)
        workdir.check_same_run(self._values, free=free)
        self._augmentation = factory.make_augmentation(self._values)
        set_virtual_devices(v.num_virtual_devices)
        strategy = make_strategy(v.strategy, v.worker_hosts, v.worker_index)
        keras.utils.set_random_seed(v.seed)
        parts = assemble(v, strategy)

        store = CheckpointStore(workdir.checkpoints, keep=v.keep)
        start_step = 0
        if store.latest() is not None:
            start_step = store.restore(parts.model.state())["step"]
        if start_step == parts.steps and (workdir.path / MODEL_FILE).exists():
            logging.info("The run in %s is finished: nothing to do.", v.workdir)
            return
        if not is_chief(strategy):
            # All workers read the run's workdir and the chief alone writes it.
            scratch = tempfile.TemporaryDirectory()
            workdir = Workdir(scratch.name)
            store = CheckpointStore(workdir.checkpoints)
        workdir.record_run(self._values, package_versions(), command)
        logging.info("Plan:\n  %s", "\n  ".join(_plan(v, parts, start_step, strategy)))
        with contextlib.closing(MetricsLog(workdir.path)) as log:
            log.truncate_after(start_step)
            self._train(parts, strategy, start_step, Record(v, workdir, store, log))
        with parts.model.averaged_weights():
            parts.model.student.save(workdir.path / MODEL_FILE)
            logging.info("Wrote %s", workdir.path / MODEL_FILE)
            if v.export and is_chief(strategy):
                _export(v, workdir, parts)

    def _train(self, parts, strategy, start_step, record):
        """Runs the steps that are left, with what is done in between."""
        v = self._v
        pipeline = make_pipeline(
            parts.train,
            parts.sampler,
            v.input_size,
            seed=v.seed,
            start_step=start_step,
            steps=parts.steps - start_step,
            flip=v.flip,
            augmentation=self._augmentation,
            skip_corrupt=v.skip_corrupt,
        )
        progress = ProgressLine(parts.steps, initial_step=start_step)
        try:
            run_steps(
                compile_step(parts.model, strategy),
                distribute(strategy, pipeline.dataset),
                start_step,
                parts.steps,
                record.hooks(parts, progress),
            )
        except tf.errors.OpError as error:
            if not pipeline.failures:
                raise
            raise ValueError(pipeline.failures[0]) from error
        finally:
            progress.close()
        _report_skipped(pipeline.skipped)


class Record:
    """What a run leaves behind while it goes on: lines, evaluations, checkpoints.

    Args:
        v: The flags of `ekd_tf.train`.
        workdir: `Workdir` of the reports.
        store: `CheckpointStore`.
        log: `MetricsLog`.
    """

    def __init__(self, v: Values, workdir: Workdir, store, log):
        self._v = v
        self._workdir = workdir
        self._store = store
        self._log = log

    def hooks(self, parts: Parts, progress: ProgressLine) -> list[Hook]:
        """Returns what to do after the steps, in order.

        Evaluations stand before the checkpoint: what its step has logged is then
        complete.

        Args:
            parts: The run's parts.
            progress: Paused while something else takes long.
        """
        v = self._v
        hooks = [
            ProgressHook(progress, parts.sampler.batch_size),
            Every(v.log_every, self._writing(progress)),
        ]
        if parts.heldout is not None:
            hooks.append(Every(v.evaluate_every, self._evaluating(parts, progress)))
        hooks.append(Every(v.checkpoint_every, self._saving(parts, progress)))
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
        evaluation = HeldoutEvaluation(
            parts.heldout,
            parts.model.student,
            self._v.input_size,
            teacher=parts.teacher,
            seed=self._v.seed,
        )

        def evaluate(step):
            progress.pause()
            with parts.model.averaged_weights():
                result = evaluation(plots=self._workdir.reports)
            result.write(self._workdir.reports)
            self._log.write(step.number, result.scalars())
            self._log.images(step.number, result.images)
            logging.info(
                "Step %d on held-out identities:\n%s", step.number, result.text()
            )

        return evaluate

    def _saving(self, parts, progress):
        def save(step):
            progress.pause()
            self._log.flush()
            self._store.save(step.number, parts.model.state())

        return save


def sources_of_run(path):
    """Opens the images a run was trained on and those it held out.

    Args:
        path: The run's workdir.

    Returns:
        `(train, heldout)`, `heldout` None where the run had none.

    Raises:
        ValueError: `path` is not a workdir.
    """
    v = Values(Workdir(path, create=False).read_run()["flags"])
    return factory.make_sources(
        v.data,
        v.heldout_data,
        v.holdout_identities,
        v.seed,
        cache_dir=path,
        skip_corrupt=v.skip_corrupt,
    )


def _plan(v, parts, start_step, strategy):
    """Returns the lines that say what the run is going to do."""
    train, heldout, teacher = parts.train, parts.heldout, parts.teacher
    return [
        f"train     {len(train):,} images of {train.num_identities:,} identities"
        f" from {train.name}",
        "held out  none: give --heldout_data or --holdout_identities to evaluate"
        if heldout is None
        else f"held out  {len(heldout):,} images of "
        f"{heldout.num_identities:,} identities from {heldout.name}",
        f"student   {v.model} width {v.width:g}, {v.input_size} px, "
        f"{parts.model.student.count_params():,} parameters, {v.precision}",
        "teacher   none"
        if teacher is None
        else f"teacher   {v.teacher}, {teacher.count_params():,} parameters",
        f"losses    {v.head} x{v.margin_weight:g} on {v.general_batch} general rows"
        + (f"; {v.distill} on all rows" if v.distill else ""),
        f"batch     {v.general_batch} general + {v.balanced_identities} x "
        f"{v.images_per_identity} balanced = {parts.sampler.batch_size} images "
        f"on {strategy.num_replicas_in_sync} replica(s)",
        f"steps     {parts.steps:,}, from {start_step:,}",
        f"workdir   {v.workdir}",
    ]


def _export(v, workdir, parts):
    images = factory.sample_images(parts.heldout or parts.train, v.input_size)
    report = export_student(
        parts.model.student, workdir.path / "export", images, name=v.model
    )
    text = json.dumps(report.to_dict(), indent=2) + "\n"
    (workdir.reports / "export.json").write_text(text, encoding="utf-8")
    logging.info("Exported:\n%s", report.to_table())


def _report_skipped(skipped):
    if skipped:
        logging.warning(
            "%d unreadable images were replaced:\n  %s",
            len(skipped),
            "\n  ".join(skipped),
        )
