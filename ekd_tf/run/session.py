"""One training run from its settings: `run_training`, read from top to bottom."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile

import keras
import tensorflow as tf
from absl import logging

from ekd_tf.data import make_pipeline
from ekd_tf.data import sample_images
from ekd_tf.export import export_student
from ekd_tf.files.atomic import write_text
from ekd_tf.files.outputs import FULL
from ekd_tf.files.outputs import naming_unwritable
from ekd_tf.models import BACKBONES
from ekd_tf.run import student
from ekd_tf.run.assembly import assemble
from ekd_tf.run.assembly import plan
from ekd_tf.run.checkpoints import CheckpointStore
from ekd_tf.run.config import FREE
from ekd_tf.run.config import TrainConfig
from ekd_tf.run.evaluators import check_range_of_pixels
from ekd_tf.run.interruption import Interrupted
from ekd_tf.run.interruption import Termination
from ekd_tf.run.progress import ProgressLine
from ekd_tf.run.progress import begin_line
from ekd_tf.run.provenance import provenance_of_run
from ekd_tf.run.record import Record
from ekd_tf.run.workdir import Workdir
from ekd_tf.training.loop import compile_step
from ekd_tf.training.loop import run_steps
from ekd_tf.training.strategy import distribute
from ekd_tf.training.strategy import grow_gpu_memory
from ekd_tf.training.strategy import has_other_workers
from ekd_tf.training.strategy import is_chief
from ekd_tf.training.strategy import lost_worker
from ekd_tf.training.strategy import make_strategy
from ekd_tf.training.strategy import set_virtual_devices
from ekd_tf.training.strategy import sum_over_replicas_of


def run_training(config: TrainConfig) -> None:
    """Trains, evaluates and exports; or resumes and does so.

    Raises:
        ValueError: A setting is wrong, a guard ended the run, or the disk is full.
        Interrupted: The run ended early and the same command continues it.
    """
    strategy = _set_up_devices(config)
    with contextlib.ExitStack() as stack:
        # All workers read the run's workdir and the chief alone writes it.
        workdir, chief = Workdir(str(config.workdir)), is_chief(strategy)
        store = CheckpointStore(workdir.checkpoints, config.max_checkpoints)
        termination = Termination()
        stack.enter_context(termination.noted())

        # Of the run, which a worker does not write.
        latest = store.latest

        def way_out():
            return (
                f"The last checkpoint is that of step {latest() or 0}: mend the cause, "
                "and the same command goes on from there"
            )

        # A failing disk, too.
        errnos = *FULL, errno.EIO
        stack.enter_context(naming_unwritable("A file", way_out, errnos))
        if chief:
            stack.enter_context(workdir.locked())
        flags, force = config.to_record(), config.force_flags
        changed = workdir.check_same_run(flags, FREE, force)

        parts = assemble(config, strategy, workdir)
        teacher = parts.teacher.fingerprint if parts.teacher else None
        workdir.check_same_teacher(teacher, force)
        start_step, evaluated = _restore(store, parts.model)
        _check_start(strategy, start_step, parts.steps)
        finished = start_step == parts.steps and workdir.is_finished(config.export)
        if not chief:
            workdir = Workdir(stack.enter_context(tempfile.TemporaryDirectory()))
            store = CheckpointStore(workdir.checkpoints)
        record = Record(config, parts, workdir, store, start_step, evaluated)
        if finished and not record.is_pending:
            logging.info("The run in %s is finished: nothing to do.", config.workdir)
            return
        # Before the workdir remembers a teacher that is refused.
        if not start_step:
            _begin(config, parts)
        store.prune(start_step)
        workdir.record_run(flags, changed, teacher, parts.note)
        lines = plan(config, parts, start_step, strategy.num_replicas_in_sync)
        logging.info("Plan:\n  %s", "\n  ".join(lines))

        stack.enter_context(contextlib.closing(record.open_log()))
        _train(config, parts, strategy, start_step, record, termination)
        with parts.model.averaged_weights():
            # Keras chooses the format by the last suffix.
            aside = workdir.model_file.with_suffix(".tmp.keras")
            parts.model.backbone.save(aside)
            os.replace(aside, workdir.model_file)
            logging.info("Wrote %s", workdir.model_file)
            if config.export and chief:
                _export(config, workdir, parts)
        unreadable = parts.unreadable.lines
        if unreadable:
            logging.warning(
                "%d images could not be read. In training another of the identity took "
                "the place of each; where that is not known it is left out:\n  %s",
                len(unreadable),
                "\n  ".join(unreadable),
            )
        if record.failure:
            raise ValueError(
                f"{record.failure}. {workdir.model_file} is saved; mend the "
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


def _restore(store, model):
    """Returns the step to go on from, 0 without checkpoint, and the last evaluated."""
    if store.latest() is None:
        return 0, None
    metadata = store.restore(model.state())
    step = metadata["step"]
    # A checkpoint without the word was written when all was evaluated.
    return step, metadata.get("evaluated", step)


def _check_start(strategy, start_step, steps):
    """Refuses to go on from another step than other workers, or from beyond the end."""
    if has_other_workers(strategy):
        total = sum_over_replicas_of(strategy)(float(start_step))
        if total != start_step * strategy.num_replicas_in_sync:
            raise ValueError(
                f"this worker would go on from step {start_step} and others from "
                "another one: all must read the same `--workdir`. Mount it on every "
                "machine, and start them all again"
            )
    if start_step > steps:
        raise ValueError(
            f"the run has made {start_step} steps, more than --steps={steps}: give as "
            "many or more, or another --workdir"
        )


def _begin(config, parts):
    """Does what a run does once: checks its models, and starts from other weights."""
    backbone = parts.model.backbone
    if config.init:
        student.start_from(backbone, config.init, config.init_partial)
    if not student.is_built_in(config.model):
        student.check_loads(backbone, config.model)
    if config.model.partition(":")[0] not in BACKBONES:
        student.check_converts(backbone, needed=config.export)
    if parts.teacher is None:
        return
    line = check_range_of_pixels(
        config.teacher,
        parts.teacher.embedder_of(parts.train),
        parts.train,
        config.input_size,
        config.seed,
        parts.unreadable,
    )
    logging.info("%s", line)


def _train(config, parts, strategy, start_step, record, termination):
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
        augmentation=parts.augmentation,
        unreadable=parts.unreadable,
        teacher_size=teacher and teacher.image_size(config.input_size),
        views=teacher and teacher.views,
    )
    progress = ProgressLine(parts.steps, initial_step=start_step)
    try:
        run_steps(
            compile_step(parts.model, strategy),
            distribute(strategy, pipeline.dataset, teacher and teacher.attach),
            start_step,
            parts.steps,
            record.hooks(progress, strategy, termination),
        )
    except tf.errors.OpError as error:
        lost = lost_worker(strategy, error)
        if lost:
            raise Interrupted(f"{lost} has ended; start them all again.") from error
        pipeline.check_images(progress.n)
        raise
    finally:
        progress.close()


def _export(config, workdir, parts):
    images = sample_images(
        parts.heldout or parts.train, config.input_size, unreadable=parts.unreadable
    )
    report = export_student(
        parts.model.backbone,
        workdir.path / "export",
        images,
        name="student",
        facts=provenance_of_run(config.to_record(), "-m", "ekd_tf.train"),
        progress=begin_line,
    )
    text = json.dumps(report.to_dict(), indent=2) + "\n"
    write_text(workdir.export_report, text)
    logging.info("Exported:\n%s", report.to_table())
