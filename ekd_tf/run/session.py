"""One training run from its settings: `run_training`, read from top to bottom."""

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
from ekd_tf.run.assembly import assemble
from ekd_tf.run.best import BestMetric
from ekd_tf.run.checkpoints import CheckpointStore
from ekd_tf.run.config import FREE
from ekd_tf.run.config import TrainConfig
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


def run_training(config: TrainConfig, command: list[str]) -> None:
    """Trains, evaluates and exports; or resumes and does so.

    Args:
        config: The settings, completed.
        command: The command line, recorded in the workdir.

    Raises:
        ValueError: A setting is wrong, by itself or beside the others or the data; a
            guard ended the run (`RunStopped`); the disk is full. The last checkpoint
            stays.
        Interrupted: The run ended early and the same command continues it.
    """
    workdir = Workdir(config.workdir)
    augmentation = factory.make_augmentation(config.augment, config.input_size)
    profiled_steps(config.profile_steps)
    strategy = _set_up_devices(config)
    with contextlib.ExitStack() as stack:
        termination = stack.enter_context(Termination())
        store = CheckpointStore(workdir.checkpoints, keep=config.max_checkpoints)
        stack.enter_context(_naming_last_checkpoint(store))
        # All workers read the run's workdir and the chief alone writes it.
        chief = is_chief(strategy)
        if chief:
            stack.enter_context(WorkdirLock(workdir))
        flags, force = config.to_record(), config.force_flags
        changed = workdir.check_same_run(flags, FREE, force)
        parts = assemble(config, strategy, workdir)
        teacher = parts.teacher and parts.teacher.fingerprint
        workdir.check_same_teacher(teacher, force)
        best = BestMetric(config.best_metric)
        if parts.evaluations:
            best.check_reported(_figure_names(parts))
        start_step, evaluated = _restore(store, parts.model, best)
        pending = is_pending(config, parts, start_step, evaluated)
        at_end = start_step == parts.steps and not pending
        if at_end and _is_finished(config, workdir):
            logging.info("The run in %s is finished: nothing to do.", config.workdir)
            return
        if not chief:
            scratch = tempfile.TemporaryDirectory()
            workdir = Workdir(stack.enter_context(scratch))
            store = CheckpointStore(workdir.checkpoints)
        # Before the workdir remembers a teacher that is refused.
        if start_step == 0 and parts.teacher is not None:
            _check_teacher(config, parts)
        store.prune(start_step)
        workdir.record_run(
            flags, package_versions(), command, changed, teacher, parts.note
        )
        plan = _plan(config, parts, start_step, strategy)
        logging.info("Plan:\n  %s", "\n  ".join(plan))
        log = stack.enter_context(contextlib.closing(MetricsLog(workdir.path)))
        again = [f"{e.name}/" for e in parts.evaluations] if pending else ()
        log.truncate_after(start_step, again)
        record = Record(config, workdir, store, log, best, start_step, evaluated)
        _train(config, parts, augmentation, strategy, start_step, record, termination)
        with parts.model.averaged_weights():
            _save_model(parts.model.backbone, workdir.path / MODEL_FILE)
            if config.export and chief:
                words = ["python", "-m", "ekd_tf.train", *command[1:]]
                _export(config, workdir, parts, provenance_of_run(flags, words))
        _report_unreadable(parts.unreadable.lines)
        if record.failure:
            raise ValueError(
                f"{record.failure}. {workdir.path / MODEL_FILE} is saved; mend the "
                "cause, and the same command evaluates once more"
            )


def _set_up_devices(config):
    """Returns the strategy; nothing may have used a device before."""
    grow_gpu_memory()
    set_virtual_devices(config.num_virtual_devices)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    strategy = make_strategy(config.strategy)
    keras.utils.set_random_seed(config.seed)
    return strategy


def _check_teacher(config, parts):
    """Raises `ValueError` for a teacher that is given pixels of a wrong range."""
    line = check_range_of_pixels(
        config.teacher,
        parts.teacher.embedder_of(parts.train),
        parts.train,
        config.input_size,
        config.seed,
        parts.unreadable,
    )
    logging.info("%s", line)


def _train(config, parts, augmentation, strategy, start_step, record, termination):
    """Runs the steps that are left, with what is done in between."""
    teacher = parts.teacher
    pipeline = make_pipeline(
        parts.train,
        parts.sampler,
        config.input_size,
        seed=config.seed,
        start_step=start_step,
        steps=parts.steps - start_step,
        flip=config.flip,
        augmentation=augmentation,
        unreadable=parts.unreadable,
        teacher_size=teacher and teacher.image_size(config.input_size),
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
    config = TrainConfig.of_record(workdir.read_run()["flags"])
    unreadable = unreadable or Unreadable(config.skip_corrupt)
    data = open_run_data(config, workdir, unreadable, force, cache_dir=path)
    return data.train, data.heldout


def _figure_names(parts):
    """Returns the names of all figures the run's evaluations will give."""
    names = []
    for evaluation in parts.evaluations:
        teacher = parts.teacher and parts.teacher.embedder_of(evaluation.source)
        names += evaluation.figure_names(gap=teacher is not None)
    return names


def _plan(config, parts, start_step, strategy):
    """Returns the lines that say what the run is going to do."""
    train, heldout, teacher = parts.train, parts.heldout, parts.teacher
    size = first_image_size(train)
    resized = size is not None and size != (config.input_size, config.input_size)
    return [
        f"train     {len(train):,} images of {train.num_identities:,} identities"
        f" from {train.name}",
        *(
            [f"images    of {size[0]}x{size[1]} resized to {config.input_size} px"]
            * resized
        ),
        "held out  none: give --heldout_data or --holdout_identities to evaluate"
        if heldout is None
        else f"held out  {len(heldout):,} images of "
        f"{heldout.num_identities:,} identities from {heldout.name}",
        f"student   {config.model} width {config.width:g}, {config.input_size} px, "
        f"{parts.model.backbone.count_params():,} parameters, {config.precision}",
        "teacher   none"
        if teacher is None
        else f"teacher   {config.teacher}, {teacher.input_size} px, "
        f"{teacher.embedding_dim} dimensions",
        f"losses    {config.head} x{config.margin_weight:g} on "
        f"{config.general_batch} general rows"
        + (
            f"; {config.distill} on all rows"
            if config.distill
            else _without_loss(config)
        ),
        f"batch     {config.general_batch} general + {config.balanced_identities} x "
        f"{config.images_per_identity} balanced = {parts.sampler.batch_size} images "
        f"on {strategy.num_replicas_in_sync} replica(s)",
        f"steps     {parts.steps:,}, from {start_step:,}",
        f"workdir   {config.workdir}",
    ]


def _without_loss(config):
    if not config.balanced_identities:
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


def _is_finished(config, workdir):
    report = workdir.reports / EXPORT_REPORT
    return (workdir.path / MODEL_FILE).exists() and (
        not config.export or report.exists()
    )


def _save_model(student, path):
    # Keras chooses the format by the last suffix.
    aside = path.with_suffix(".tmp.keras")
    student.save(aside)
    os.replace(aside, path)
    logging.info("Wrote %s", path)


def _export(config, workdir, parts, facts):
    images = sample_images(
        parts.heldout or parts.train, config.input_size, unreadable=parts.unreadable
    )
    report = export_student(
        parts.model.backbone,
        workdir.path / "export",
        images,
        name=config.model,
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
