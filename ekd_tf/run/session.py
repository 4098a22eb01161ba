"""One training run from its settings: what `ekd_tf.train` does with its flags.

Row 4 of the architecture, above the record: plain values in, a workdir out.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import tempfile

import keras
import tensorflow as tf
from absl import logging

from ekd_tf.data import Source
from ekd_tf.data import make_pipeline
from ekd_tf.data import sample_images
from ekd_tf.data.samples import first_image_size
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.embedders import MODEL_FILE
from ekd_tf.export import export_student
from ekd_tf.files.atomic import write_aside
from ekd_tf.run import factory
from ekd_tf.run.assembly import Values
from ekd_tf.run.assembly import assemble
from ekd_tf.run.best import BestMetric
from ekd_tf.run.checkpoints import CheckpointStore
from ekd_tf.run.data import open_run_data
from ekd_tf.run.evaluators import check_range_of_pixels
from ekd_tf.run.interruption import Interrupted
from ekd_tf.run.interruption import Termination
from ekd_tf.run.lock import WorkdirLock
from ekd_tf.run.logs import MetricsLog
from ekd_tf.run.profile import profiled_steps
from ekd_tf.run.progress import ProgressLine
from ekd_tf.run.provenance import package_versions
from ekd_tf.run.provenance import provenance_of_run
from ekd_tf.run.record import Record
from ekd_tf.run.record import is_pending
from ekd_tf.run.workdir import Workdir
from ekd_tf.training.loop import compile_step
from ekd_tf.training.loop import run_steps
from ekd_tf.training.strategy import distribute
from ekd_tf.training.strategy import grow_gpu_memory
from ekd_tf.training.strategy import is_chief
from ekd_tf.training.strategy import lost_worker
from ekd_tf.training.strategy import make_strategy
from ekd_tf.training.strategy import set_virtual_devices

# A full or failing disk, a used-up quota, a file system turned read-only.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
EXPORT_REPORT = "export.json"


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

        Raises:
            ValueError: As the class; a guard ended the run (`RunStopped`); the disk
                is full. The last checkpoint stays.
            Interrupted: The run ended early and the same command goes on with it.
        """
        v = self._v
        workdir = Workdir(v.workdir)
        self._augmentation = factory.make_augmentation(self._values)
        profiled_steps(v.profile_steps)
        grow_gpu_memory()
        set_virtual_devices(v.num_virtual_devices)
        if v.deterministic:
            tf.config.experimental.enable_op_determinism()
        strategy = make_strategy(v.strategy)
        keras.utils.set_random_seed(v.seed)
        with contextlib.ExitStack() as stack:
            termination = stack.enter_context(Termination())
            store = CheckpointStore(workdir.checkpoints, keep=v.keep)
            stack.enter_context(_naming_last_checkpoint(store))
            # All workers read the run's workdir and the chief alone writes it.
            chief = is_chief(strategy)
            if chief:
                stack.enter_context(WorkdirLock(workdir))
            changed = workdir.check_same_run(self._values, free, v.force_flags)
            parts = assemble(v, strategy, workdir)
            teacher = parts.teacher and parts.teacher.fingerprint
            workdir.check_same_teacher(teacher, v.force_flags)
            best = BestMetric(v.best_metric)
            if parts.evaluations:
                best.check_reported(_figure_names(parts))
            start_step, evaluated = _restore(store, parts.model, best)
            pending = is_pending(v, parts, start_step, evaluated)
            if start_step == parts.steps and not pending and _is_finished(v, workdir):
                logging.info("The run in %s is finished: nothing to do.", v.workdir)
                return
            if not chief:
                scratch = tempfile.TemporaryDirectory()
                workdir = Workdir(stack.enter_context(scratch))
                store = CheckpointStore(workdir.checkpoints)
            # Before the workdir remembers a teacher that is refused.
            if start_step == 0 and parts.teacher is not None:
                embedder = parts.teacher.embedder_of(parts.train)
                line = check_range_of_pixels(
                    v.teacher,
                    embedder,
                    parts.train,
                    v.input_size,
                    v.seed,
                    parts.unreadable,
                )
                logging.info("%s", line)
            store.prune(start_step)
            workdir.record_run(
                self._values,
                package_versions(),
                command,
                changed,
                teacher,
                parts.note,
            )
            plan = _plan(v, parts, start_step, strategy)
            logging.info("Plan:\n  %s", "\n  ".join(plan))
            log = stack.enter_context(contextlib.closing(MetricsLog(workdir.path)))
            again = [f"{e.name}/" for e in parts.evaluations] if pending else ()
            log.truncate_after(start_step, again)
            record = Record(v, workdir, store, log, best, start_step, evaluated)
            self._train(parts, strategy, start_step, record, termination)
            with parts.model.averaged_weights():
                _save_model(parts.model.student, workdir.path / MODEL_FILE)
                if v.export and chief:
                    _export(v, workdir, parts, self._facts(command))
            _report_unreadable(parts.unreadable.lines)
            if record.failure:
                raise ValueError(
                    f"{record.failure}. {workdir.path / MODEL_FILE} is saved; mend the "
                    "cause, and the same command evaluates once more"
                )

    def _facts(self, command):
        """Returns what the exported student's card says of the run."""
        words = ["python", "-m", "ekd_tf.train", *command[1:]]
        return provenance_of_run(self._values, words)

    def _train(self, parts, strategy, start_step, record, termination):
        """Runs the steps that are left, with what is done in between."""
        v, teacher = self._v, parts.teacher
        pipeline = make_pipeline(
            parts.train,
            parts.sampler,
            v.input_size,
            seed=v.seed,
            start_step=start_step,
            steps=parts.steps - start_step,
            flip=v.flip,
            augmentation=self._augmentation,
            unreadable=parts.unreadable,
            teacher_size=teacher and teacher.image_size(v.input_size),
        )
        dataset = pipeline.dataset if teacher is None else teacher.attach(pipeline)
        progress = ProgressLine(parts.steps, initial_step=start_step)
        try:
            run_steps(
                compile_step(parts.model, strategy),
                distribute(strategy, dataset),
                start_step,
                parts.steps,
                record.hooks(parts, progress, strategy, termination),
            )
        except tf.errors.OpError as error:
            lost = lost_worker(strategy, error)
            if lost:
                raise Interrupted(f"{lost} has ended; start them all again.") from error
            failure = pipeline.failure(progress.step)
            if failure is None:
                raise
            raise failure from error
        finally:
            progress.close()


def unreadable_of(model, allowed: int | None) -> Unreadable:
    """Returns what counts the unreadable images met with a model.

    Args:
        model: A run's workdir, or any other model.
        allowed: Int, how many may be; None for as many as the run allowed, or none.
    """
    if allowed is None:
        is_run = (pathlib.Path(model) / "run.json").is_file()
        run = Workdir(model, create=False).read_run() if is_run else {"flags": {}}
        allowed = run["flags"].get("skip_corrupt", 0)
    return Unreadable(allowed)


def sources_of_run(
    path, unreadable: Unreadable | None = None, force: bool = False
) -> tuple[Source, Source | None]:
    """Opens the images a run was trained on and those it held out.

    Args:
        path: The run's workdir.
        unreadable: Counts damaged records. Default: as many as the run allowed are.
        force: Whether to take images that have changed since.

    Returns:
        `(train, heldout)`, `heldout` None where the run had none.

    Raises:
        ValueError: `path` is not a workdir, or the images have changed.
    """
    workdir = Workdir(path, create=False)
    flags = workdir.read_run()["flags"]
    unreadable = unreadable or Unreadable(flags["skip_corrupt"])
    data = open_run_data(flags, workdir, unreadable, force, cache_dir=path)
    return data.train, data.heldout


def _figure_names(parts):
    """Returns the names of all figures the run's evaluations will give."""
    names = []
    for evaluation in parts.evaluations:
        teacher = parts.teacher and parts.teacher.embedder_of(evaluation.source)
        names += evaluation.figure_names(gap=teacher is not None)
    return names


def _plan(v, parts, start_step, strategy):
    """Returns the lines that say what the run is going to do."""
    train, heldout, teacher = parts.train, parts.heldout, parts.teacher
    size = first_image_size(train)
    resized = size is not None and size != (v.input_size, v.input_size)
    return [
        f"train     {len(train):,} images of {train.num_identities:,} identities"
        f" from {train.name}",
        *([f"images    of {size[0]}x{size[1]} resized to {v.input_size} px"] * resized),
        "held out  none: give --heldout_data or --holdout_identities to evaluate"
        if heldout is None
        else f"held out  {len(heldout):,} images of "
        f"{heldout.num_identities:,} identities from {heldout.name}",
        f"student   {v.model} width {v.width:g}, {v.input_size} px, "
        f"{parts.model.student.count_params():,} parameters, {v.precision}",
        "teacher   none"
        if teacher is None
        else f"teacher   {v.teacher}, {teacher.input_size} px, "
        f"{teacher.embedding_dim} dimensions",
        f"losses    {v.head} x{v.margin_weight:g} on {v.general_batch} general rows"
        + (f"; {v.distill} on all rows" if v.distill else _without_loss(v)),
        f"batch     {v.general_batch} general + {v.balanced_identities} x "
        f"{v.images_per_identity} balanced = {parts.sampler.batch_size} images "
        f"on {strategy.num_replicas_in_sync} replica(s)",
        f"steps     {parts.steps:,}, from {start_step:,}",
        f"workdir   {v.workdir}",
    ]


def _without_loss(v):
    if not v.balanced_identities:
        return ""
    return "; none on the balanced rows, which only cost time without --distill"


def _restore(store, model, best):
    """Returns the step to go on from, 0 without checkpoint, and the last evaluated."""
    if store.latest() is None:
        return 0, None
    metadata = store.restore(model.state())
    step = metadata["step"]
    best.restore(metadata.get("best"))
    if best.step == step:
        # A kill between the two left the checkpoint of the best without its name.
        store.save_best(step)
    # A checkpoint without the word was written when all was evaluated.
    return step, metadata.get("evaluated", step)


def _is_finished(v, workdir):
    report = workdir.reports / EXPORT_REPORT
    return (workdir.path / MODEL_FILE).exists() and (not v.export or report.exists())


def _save_model(student, path):
    # Keras chooses the format by the last suffix.
    aside = path.with_suffix(".tmp.keras")
    student.save(aside)
    os.replace(aside, path)
    logging.info("Wrote %s", path)


def _export(v, workdir, parts, facts):
    images = sample_images(
        parts.heldout or parts.train, v.input_size, unreadable=parts.unreadable
    )
    report = export_student(
        parts.model.student,
        workdir.path / "export",
        images,
        name=v.model,
        facts=facts,
    )
    text = json.dumps(report.to_dict(), indent=2) + "\n"
    write_aside(workdir.reports / EXPORT_REPORT, lambda file: file.write(text.encode()))
    logging.info("Exported:\n%s", report.to_table())


@contextlib.contextmanager
def _naming_last_checkpoint(store):
    """Ends the run in words when a file cannot be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        raise ValueError(
            f"{error.filename or 'A file'} cannot be written: {error.strerror}. The "
            f"last checkpoint is that of step {store.latest() or 0}: mend the cause, "
            "and the same command goes on from there"
        ) from error


def _report_unreadable(lines):
    if lines:
        logging.warning(
            "%d unreadable images were replaced in training and left out elsewhere:"
            "\n  %s",
            len(lines),
            "\n  ".join(lines),
        )
