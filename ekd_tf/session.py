"""One training run from its settings: what `ekd_tf.train` does with its flags.

Row 4 of the architecture, beside the factory: plain values in, a workdir out.
"""

from __future__ import annotations

import contextlib
import json
import math
import platform
import tempfile
from importlib import metadata

import keras
import tensorflow as tf
from absl import logging

from ekd_tf import factory
from ekd_tf.data import make_pipeline
from ekd_tf.evaluation import HeldoutEvaluation
from ekd_tf.export import export_student
from ekd_tf.heads import check_labels
from ekd_tf.teachers import MODEL_FILE
from ekd_tf.training.checkpoints import CheckpointStore
from ekd_tf.training.classifier import FaceClassifier
from ekd_tf.training.distiller import Distiller
from ekd_tf.training.logs import MetricsLog
from ekd_tf.training.loop import Every
from ekd_tf.training.loop import run_steps
from ekd_tf.training.optimizers import make_optimizer
from ekd_tf.training.progress import ProgressLine
from ekd_tf.training.strategy import check_divisible
from ekd_tf.training.strategy import is_chief
from ekd_tf.training.strategy import make_strategy
from ekd_tf.training.strategy import set_virtual_devices
from ekd_tf.training.workdir import Workdir

PACKAGES = ("ekd-tf", "tensorflow", "keras", "numpy", "absl-py", "tensorboard")


class TrainingSession:
    """Builds everything a run needs, then trains, evaluates and exports.

    Args:
        values: The flags of `ekd_tf.train`, by name.

    Raises:
        ValueError: A value is wrong, by itself or beside the others or the data.
    """

    def __init__(self, values: dict):
        self._values = dict(values)
        self._v = _Values(values)

    def run(self, command: list[str], free=()) -> None:
        """Trains to the end, or resumes and does so.

        Args:
            command: The command line, recorded in the workdir.
            free: Names of values that may differ from the recorded ones on resume.
        """
        v = self._v
        workdir = Workdir(v.workdir)
        workdir.check_same_run(self._values, free=free)
        set_virtual_devices(v.num_virtual_devices)
        strategy = make_strategy(v.strategy)
        keras.utils.set_random_seed(v.seed)

        train, heldout = factory.make_sources(
            v.data, v.heldout_data, v.holdout_identities, v.seed
        )
        check_labels(train.labels, train.num_identities)
        sampler = factory.make_sampler(
            train,
            v.general_batch,
            v.balanced_identities,
            v.images_per_identity,
            v.seed,
        )
        steps = _total_steps(v, sampler)
        replicas = strategy.num_replicas_in_sync
        check_divisible(
            v.general_batch, v.balanced_identities * v.images_per_identity, replicas
        )
        with strategy.scope():
            model, teacher = self._make_model(train.num_identities, steps, sampler)

        store = CheckpointStore(workdir.checkpoints, keep=v.keep)
        start_step = 0
        if store.latest() is not None:
            start_step = store.restore(model.state())["step"]
        if start_step == steps and (workdir.path / MODEL_FILE).exists():
            logging.info("The run in %s is finished: nothing to do.", v.workdir)
            return
        if not is_chief(strategy):
            # All workers read the run's workdir and the chief alone writes it.
            scratch = tempfile.TemporaryDirectory()
            workdir = Workdir(scratch.name)
            store = CheckpointStore(workdir.checkpoints)
        workdir.record_run(self._values, package_versions(), command)
        self._announce(train, heldout, model, teacher, steps, start_step, replicas)
        evaluation = None
        if heldout is not None:
            evaluation = HeldoutEvaluation(
                heldout, model.student, v.input_size, teacher=teacher, seed=v.seed
            )
        with contextlib.closing(MetricsLog(workdir.path)) as log:
            log.truncate_after(start_step)
            self._train(
                workdir,
                model,
                strategy,
                train,
                sampler,
                start_step,
                steps,
                store,
                log,
                evaluation,
            )
        model.student.save(workdir.path / MODEL_FILE)
        logging.info("Wrote %s", workdir.path / MODEL_FILE)
        if v.export and is_chief(strategy):
            self._export(workdir, model.student, heldout or train)

    def _train(
        self,
        workdir,
        model,
        strategy,
        train,
        sampler,
        start_step,
        steps,
        store,
        log,
        evaluation,
    ):
        """Runs the steps that are left, with what is done in between."""
        v = self._v
        pipeline = make_pipeline(
            train,
            sampler,
            v.input_size,
            seed=v.seed,
            start_step=start_step,
            steps=steps - start_step,
            flip=v.flip,
            skip_corrupt=v.skip_corrupt,
        )
        progress = ProgressLine(steps, initial_step=start_step)

        def write_log(step, scalars):
            speed = progress.per_second
            if speed is not None:
                scalars = {**scalars, "throughput/images_per_second": speed}
            log.write(step, scalars)

        def evaluate(step):
            result = evaluation(plots=workdir.reports)
            result.write(workdir.reports)
            log.write(step, result.scalars())
            log.images(step, result.images)
            logging.info("Step %d on held-out identities:\n%s", step, result.text())

        def save(step):
            log.flush()
            store.save(step, model.state())

        # Evaluated before saved: what a checkpoint's step has logged is complete.
        others = [Every(v.checkpoint_every, save)]
        if evaluation is not None:
            others.insert(0, Every(v.evaluate_every, evaluate))
        try:
            run_steps(
                model,
                strategy,
                pipeline.dataset,
                start_step,
                steps,
                sampler.batch_size,
                progress,
                Every(v.log_every, write_log),
                others,
            )
        except tf.errors.OpError as error:
            if not pipeline.failures:
                raise
            raise ValueError(pipeline.failures[0]) from error
        finally:
            progress.close()
        _report_skipped(pipeline.skipped)

    def _make_model(self, num_identities, steps, sampler):
        v = self._v
        loss_scaling = factory.set_precision(v.precision)
        teacher = factory.make_teacher(v.teacher)
        student = factory.make_student(v.model, **_backbone_arguments(v))
        head = factory.make_head(v.head, num_identities, v.scale, v.margin)
        losses = factory.make_losses(
            v.distill,
            ekd={
                "fprs": factory.numbers("ekd_fprs", v.ekd_fprs),
                "temperature": v.ekd_temperature,
                "num_negatives": v.ekd_num_negatives,
                "momentum": v.ekd_momentum,
                "thresholds": v.ekd_thresholds,
                "threshold_gradient": v.ekd_threshold_gradient,
                "preset": v.ekd_preset or None,
            },
        )
        _check_parts(v, teacher, head, losses)
        if teacher is None:
            model = FaceClassifier(student, head, v.margin_weight)
        else:
            model = Distiller(student, teacher, losses, head, v.margin_weight)
        schedule = factory.make_schedule(
            v.schedule,
            v.learning_rate,
            steps,
            v.warmup_steps,
            _boundaries(v, sampler),
            v.drop_factor,
        )
        model.compile(
            make_optimizer(v.optimizer, schedule, v.momentum),
            weight_decay=v.weight_decay,
            clip_norm=v.clip_norm,
            loss_scaling=loss_scaling,
        )
        return model, teacher

    def _announce(self, train, heldout, model, teacher, steps, start_step, replicas):
        v = self._v
        balanced = v.balanced_identities * v.images_per_identity
        lines = [
            f"train     {len(train):,} images of {train.num_identities:,} identities"
            f" from {train.name}",
            "held out  none: give --heldout_data or --holdout_identities to evaluate"
            if heldout is None
            else f"held out  {len(heldout):,} images of "
            f"{heldout.num_identities:,} identities from {heldout.name}",
            f"student   {v.model} width {v.width:g}, {v.input_size} px, "
            f"{model.student.count_params():,} parameters, {v.precision}",
            "teacher   none"
            if teacher is None
            else f"teacher   {v.teacher}, {teacher.count_params():,} parameters",
            f"losses    {v.head} x{v.margin_weight:g} on {v.general_batch} general rows"
            + (f"; {v.distill} on all rows" if v.distill else ""),
            f"batch     {v.general_batch} general + {v.balanced_identities} x "
            f"{v.images_per_identity} balanced = {v.general_batch + balanced} images "
            f"on {replicas} replica(s)",
            f"steps     {steps:,}, from {start_step:,}",
            f"workdir   {v.workdir}",
        ]
        logging.info("Plan:\n  %s", "\n  ".join(lines))

    def _export(self, workdir, student, source):
        images = factory.sample_images(source, self._v.input_size)
        report = export_student(
            student, workdir.path / "export", images, name=self._v.model
        )
        text = json.dumps(report.to_dict(), indent=2) + "\n"
        (workdir.reports / "export.json").write_text(text, encoding="utf-8")
        logging.info("Exported:\n%s", report.to_table())


def sources_of_run(path):
    """Opens the images a run was trained on and those it held out.

    Args:
        path: The run's workdir.

    Returns:
        `(train, heldout)`, `heldout` None where the run had none.

    Raises:
        ValueError: `path` is not a workdir.
    """
    v = _Values(Workdir(path, create=False).read_run()["flags"])
    return factory.make_sources(v.data, v.heldout_data, v.holdout_identities, v.seed)


class _Values:
    """Flag values as attributes."""

    def __init__(self, values):
        self.__dict__.update(values)


def package_versions() -> dict[str, str]:
    """Returns the versions a run's numbers depend on."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _total_steps(v, sampler):
    if (v.steps is None) == (v.epochs is None):
        raise ValueError(
            "Give one of `--steps` and `--epochs`. Received: "
            f"steps={v.steps}, epochs={v.epochs}"
        )
    if v.steps is not None:
        return v.steps
    return max(1, math.ceil(v.epochs * sampler.steps_per_epoch))


def _boundaries(v, sampler):
    per_unit = 1 if v.steps is not None else sampler.steps_per_epoch
    return [round(p * per_unit) for p in factory.numbers("drop_at", v.drop_at)]


def _backbone_arguments(v):
    arguments = {
        "embedding_dim": v.embedding_dim,
        "width": v.width,
        "input_size": v.input_size,
    }
    if v.model == "mobilefacenet":
        arguments["activation"] = v.activation
    else:
        arguments["dropout"] = v.dropout
    return arguments


def _check_parts(v, teacher, head, losses):
    """Raises `ValueError` where the parts do not make a run."""
    if teacher is None and losses:
        raise ValueError(
            f"`--distill={v.distill}` needs a teacher: give --teacher=FILE.keras or "
            "the workdir of a finished run"
        )
    if teacher is not None and not losses:
        raise ValueError(
            f"`--teacher={v.teacher}` is given but nothing to learn from it: add "
            "--distill=ekd:1"
        )
    if teacher is None and head is None:
        raise ValueError("Without a teacher `--head` cannot be none.")
    if teacher is not None and teacher.input_shape[1] != v.input_size:
        raise ValueError(
            f"The teacher {v.teacher} takes images of {teacher.input_shape[1]} "
            f"pixels and the student of {v.input_size}: both see the same batch. "
            f"Set --input_size={teacher.input_shape[1]} or train a teacher at "
            f"{v.input_size}"
        )


def _report_skipped(skipped):
    if skipped:
        logging.warning(
            "%d unreadable images were replaced:\n  %s",
            len(skipped),
            "\n  ".join(skipped),
        )
