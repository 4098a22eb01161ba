"""The parts of a training run, built from its settings and checked side by side."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ekd_tf import data
from ekd_tf.checks import check_choice
from ekd_tf.checks import check_range
from ekd_tf.data.readable import first_image_size
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.evaluation import format_fpr
from ekd_tf.evaluation.allpairs import count_pairs
from ekd_tf.evaluation.calibration import least_fpr
from ekd_tf.heads import default_scale
from ekd_tf.run import factory
from ekd_tf.run.config import CACHE
from ekd_tf.run.config import CENTRES
from ekd_tf.run.config import MOST_WARMUP_STEPS
from ekd_tf.run.config import TrainConfig
from ekd_tf.run.data import note_eval_sets
from ekd_tf.run.data import open_run_data
from ekd_tf.run.evaluators import make_evaluations
from ekd_tf.run.hooks import profiled_steps
from ekd_tf.run.settings import number
from ekd_tf.run.student import make_student
from ekd_tf.run.teacher import CachedTeacher
from ekd_tf.run.teacher import OnlineTeacher
from ekd_tf.run.teacher import open_run_teacher
from ekd_tf.run.workdir import Workdir
from ekd_tf.training.classifier import FaceClassifier
from ekd_tf.training.distiller import Distiller
from ekd_tf.training.optimizers import make_optimizer
from ekd_tf.training.strategy import check_divisible
from ekd_tf.training.strategy import is_chief

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a run is made of.

    `heldout` are readable images of other identities, `note` is what the run's record
    keeps of the images, and `steps` counts the updates of the whole run.
    """

    train: data.Source
    heldout: data.Source | None
    note: dict[str, Any]
    unreadable: Unreadable
    augmentation: data.Augmentation
    evaluations: list[Any]
    sampler: data.BatchSampler
    steps: int
    model: FaceClassifier
    teacher: OnlineTeacher | CachedTeacher | None


def assemble(
    config: TrainConfig, strategy: tf.distribute.Strategy, workdir: Workdir | None
) -> Parts:
    """Builds the parts of a run, the model in the strategy's scope."""
    # What is wrong by itself is said before the images are opened, which may take long.
    profiled_steps(config.profile_steps)
    augmentation = factory.make_augmentation(config.augment, config.input_size)
    unreadable = Unreadable(config.skip_corrupt)
    train, heldout, note = open_run_data(
        config,
        workdir,
        unreadable,
        force=config.force_data,
        cache_dir=config.workdir if is_chief(strategy) else None,
    )
    balanced = config.balanced_identities or 0
    sampler = factory.make_sampler(
        train, config.general_batch, balanced, config.images_per_identity, config.seed
    )
    check_divisible(
        config.general_batch,
        balanced * config.images_per_identity,
        strategy.num_replicas_in_sync,
    )
    steps, rate = _steps_and_rate(config, sampler.steps_per_epoch)
    evaluations = make_evaluations(
        config.eval_sets, heldout, config.seed, unreadable=unreadable
    )
    eval_sets = note_eval_sets(workdir, evaluations, config.force_data)
    with strategy.scope():
        check_choice("precision", config.precision, PRECISIONS)
        keras.mixed_precision.set_global_policy(config.precision)
        teacher = open_run_teacher(
            config.teacher, train, config.flip, augmentation, config.input_size
        )
        # Loading a model draws numbers: the student's are the same with any teacher,
        # with a cache of it and with none.
        keras.utils.set_random_seed(config.seed)
        model = _make_model(config, teacher, train.num_identities)
        model.compile(
            make_optimizer(config.optimizer, rate, config.momentum),
            weight_decay=config.weight_decay,
            clip_norm=config.clip_norm,
            loss_scaling=("dynamic" if config.precision == "mixed_float16" else "none"),
        )
    return Parts(
        train=train,
        heldout=evaluations[0].source if heldout is not None else None,
        note={**note, "eval_sets": eval_sets},
        unreadable=unreadable,
        augmentation=augmentation,
        evaluations=evaluations,
        sampler=sampler,
        steps=steps,
        model=model,
        teacher=teacher,
    )


def _make_model(config, teacher, num_identities):
    backbone = make_student(
        config.model,
        embedding_dim=config.embedding_dim,
        width=config.width,
        input_size=config.input_size,
        activation=config.activation,
        dropout=config.dropout,
    )
    head, scale = _make_head(config, num_identities)
    check_parts(config)
    if teacher is None:
        return FaceClassifier(backbone, head, config.margin_weight)
    teacher_dim = teacher.embedding_dim

    def centres():
        if config.teacher_centres is None:
            return teacher.centres
        return factory.load_centres(config.teacher_centres, num_identities, teacher_dim)

    losses = factory.make_losses(
        config.distill,
        centres,
        student_dim=backbone.output_shape[-1],
        teacher_dim=teacher_dim,
        num_identities=num_identities,
        head=head,
        scale=scale,
    )
    return Distiller(backbone, teacher.in_step, losses, head, config.margin_weight)


def _make_head(config, num_identities):
    """Returns the margin head or None, and the scale of logits."""
    scale = config.scale
    if scale is None:
        scale = default_scale(num_identities)
    head = factory.make_head(
        config.head,
        num_identities,
        scale,
        config.margin,
        gradient=config.head_gradient,
        sample_rate=config.head_sample_rate,
        seed=config.seed,
    )
    return head, scale


def check_losses(config: TrainConfig) -> None:
    """Raises `ValueError` where a loss of a run cannot be made, without its data."""
    _, scale = _make_head(config, 2)
    sizes = {"student_dim": 2, "teacher_dim": 2, "num_identities": 2}
    factory.make_losses(
        config.distill, lambda: np.eye(2), head=None, scale=scale, **sizes
    )


def _steps_and_rate(config, steps_per_epoch):
    """Returns the steps of the run and its learning rates."""
    schedule = config.schedule or ("step" if config.lr_milestones else "cosine")
    if (config.steps is None) == (config.epochs is None):
        raise ValueError(
            "Give one of `--steps` and `--epochs`. Received: "
            f"steps={config.steps}, epochs={config.epochs}"
        )
    steps, unit, per_unit = config.steps, "steps", 1
    if steps is None:
        check_range("--epochs", config.epochs, low=0, high=1e9, low_open=True)
        steps = max(1, math.ceil(config.epochs * steps_per_epoch))
        unit, per_unit = "epochs", steps_per_epoch
    places = [number("--lr_milestones", text) for text in config.lr_milestones]
    boundaries = [round(place * per_unit) for place in places]
    warmup_steps = config.warmup_steps
    if warmup_steps is None:
        warmup_steps = max(0, min(steps // 20, MOST_WARMUP_STEPS, *boundaries[:1]))
    if schedule == "step" and not boundaries:
        raise ValueError(
            "`--schedule=step` needs --lr_milestones, where the rate drops. For a rate "
            "that stays give --schedule=constant"
        )
    if warmup_steps >= steps:
        raise ValueError(
            f"`--warmup_steps` must be below the steps of the run, {steps}: the "
            f"learning rate would never be full. Received: {warmup_steps}"
        )
    edges = [warmup_steps - 1, *boundaries, steps]
    increase = all(early < late for early, late in zip(edges, edges[1:]))
    if schedule == "step" and not increase:
        raise ValueError(
            f"`--lr_milestones` must increase, in {unit}, and lie between the warm-up "
            f"of {warmup_steps} steps and the end of the run at step {steps}. "
            f"Received: {','.join(config.lr_milestones)}, at steps "
            f"{', '.join(map(str, boundaries))}"
        )
    first = profiled_steps(config.profile_steps)[:1]
    if first and first[0] > steps:
        raise ValueError(
            f"`--profile_steps` must begin within the run, of {steps} steps. "
            f"Received: {config.profile_steps}"
        )
    rate, gamma = config.learning_rate, config.lr_gamma
    return steps, factory.make_schedule(
        schedule, rate, steps, warmup_steps, boundaries, gamma
    )


def check_parts(config: TrainConfig) -> None:
    """Raises `ValueError` where the parts do not make a run."""
    has_teacher = config.teacher != "none"
    has_centres = config.teacher_centres or config.teacher.startswith(CACHE)
    if CENTRES.holds(config) and not has_centres:
        raise ValueError(
            f"`--distill={config.distill}` needs the teacher's class centres, which a "
            "cache of its embeddings has: python -m ekd_tf.embed_teacher "
            f"--teacher=FILE --data={config.data} --output=DIR, then "
            "--teacher=cache:DIR. Or give them as --teacher_centres=FILE.npy, beside a "
            "--teacher"
        )
    if config.distill and not has_teacher:
        raise ValueError(
            f"`--distill={config.distill}` needs a teacher: give --teacher=FILE.keras, "
            "the workdir of a finished run or cache:DIR"
        )
    if has_teacher and not config.distill:
        raise ValueError(
            f"`--teacher={config.teacher}` is given but nothing to learn from it: add "
            "--distill=ekd:100%,cosine:100 or, with a cache, --distill=best"
        )
    received = (
        f"--head={config.head}, --margin_weight={config.margin_weight:g}, "
        f"--general_batch={config.general_batch}"
    )
    if "%" in config.distill and not factory.has_margin_loss(config):
        raise ValueError(
            f"`--distill={config.distill}` asks for a share of the margin loss's "
            "gradient: give a --head, and --margin_weight and --general_batch above 0, "
            f"or a plain weight as in --distill=cosine:100. Received: {received}"
        )
    if not has_teacher and not factory.has_margin_loss(config):
        raise ValueError(
            "Without a teacher there must be a margin loss: give a --head, and "
            f"--margin_weight and --general_batch above 0. Received: {received}"
        )


def plan(
    config: TrainConfig, parts: Parts, start_step: int, num_replicas: int
) -> list[str]:
    """Returns the lines that say what the run is going to do."""
    teacher, side = parts.teacher, config.input_size

    def described(source):
        people = f"{source.num_identities:,} identities"
        return f"{len(source):,} images of {people} from {source.name}"

    size = first_image_size(parts.train)
    resized = ""
    if size not in (None, (side, side)):
        resized = f", {size[0]}x{size[1]} resized to {side} px"
    heldout = "none: give --heldout_data or --holdout_identities to evaluate"
    measures = []
    if parts.heldout is not None:
        heldout = described(parts.heldout)
        _, negatives = count_pairs(parts.heldout.labels)
        least = least_fpr(negatives)
        fprs = f"FPR {format_fpr(least)} and above" if least < 1 else "no FPR"
        measures.append(
            f"measures  {fprs}: those held out make {negatives:,} pairs of different "
            "people; more people allow lower ones"
        )
    teacher_line, distill = "none", ""
    if teacher is not None:
        teacher_line = (
            f"{config.teacher}, {teacher.input_size} px, "
            f"{teacher.embedding_dim} dimensions"
        )
        distill = f"; {config.distill} on all rows"
    elif config.balanced_identities:
        distill = "; none on the balanced rows, which only cost time without --distill"
    head = "no margin loss on "
    if parts.model.head is not None:
        head = f"{config.head} x{config.margin_weight:g}, scale "
        head += f"{parts.model.head.scale:g}, on "
    evaluates = []
    if parts.evaluations:
        every, when = config.evaluate_every, "at the end"
        if every > parts.steps:
            when += f" alone: --evaluate_every={every:,} is more than all steps"
        elif every:
            when = f"every {every:,} steps and {when}"
        names = ", ".join(evaluation.name for evaluation in parts.evaluations)
        evaluates = [f"evaluate  {names}; {when}"]
    return [
        f"train     {described(parts.train)}{resized}",
        f"held out  {heldout}",
        *measures,
        f"network   {config.model}, {side} px, "
        f"{parts.model.backbone.count_params():,} parameters, {config.precision}"
        + (f", from {config.init}" if config.init else ""),
        f"teacher   {teacher_line}",
        f"losses    {head}{config.general_batch} general rows{distill}",
        f"batch     {config.general_batch} general + {config.balanced_identities} x "
        f"{config.images_per_identity} balanced = {parts.sampler.batch_size} images "
        f"on {num_replicas} replica(s)",
        f"steps     {parts.steps:,}, from {start_step:,}",
        *evaluates,
        f"workdir   {config.workdir}",
    ]
