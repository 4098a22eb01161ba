"""The parts of a training run, built from its settings and checked side by side.

Row 4 of the architecture, between the run's teacher and the session.
"""

from __future__ import annotations

import dataclasses
import math

import keras
import tensorflow as tf

from ekd_tf.data import BatchSampler
from ekd_tf.data import Source
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.heads import check_labels
from ekd_tf.run import factory
from ekd_tf.run.config import TrainConfig
from ekd_tf.run.data import open_run_data
from ekd_tf.run.evaluators import make_evaluations
from ekd_tf.run.profile import profiled_steps
from ekd_tf.run.teacher import RunTeacher
from ekd_tf.run.teacher import open_run_teacher
from ekd_tf.run.workdir import Workdir
from ekd_tf.training.classifier import FaceClassifier
from ekd_tf.training.distiller import Distiller
from ekd_tf.training.optimizers import make_optimizer
from ekd_tf.training.strategy import check_divisible
from ekd_tf.training.strategy import is_chief


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a run is made of.

    Attributes:
        train: The training images.
        heldout: Images of other identities to evaluate on, those that can be read; or
            None.
        note: What the run's record keeps of the images.
        unreadable: Counts the images that cannot be read, of the whole run.
        evaluations: What the run is evaluated on, checked.
        sampler: Chooses the images of each batch.
        steps: Int: updates in the whole run.
        model: Compiled `FaceClassifier`, or `Distiller` where there is a teacher.
        teacher: `RunTeacher`, or None.
    """

    train: Source
    heldout: Source | None
    note: dict
    unreadable: Unreadable
    evaluations: list
    sampler: BatchSampler
    steps: int
    model: FaceClassifier
    teacher: RunTeacher | None


def assemble(
    config: TrainConfig, strategy: tf.distribute.Strategy, workdir: Workdir
) -> Parts:
    """Builds the parts of a run.

    Args:
        config: Of the run.
        strategy: In whose scope the model is made.
        workdir: Of the run; an earlier start may have recorded its images.

    Raises:
        ValueError: A value is wrong, by itself or beside the others or the data.
    """
    unreadable = Unreadable(config.skip_corrupt)
    data = open_run_data(
        config,
        workdir,
        unreadable,
        force=config.force_data,
        cache_dir=config.workdir if is_chief(strategy) else None,
    )
    train = data.train
    check_labels(train.labels, train.num_identities)
    sampler = factory.make_sampler(
        train,
        config.general_batch,
        config.balanced_identities,
        config.images_per_identity,
        config.seed,
    )
    steps = _total_steps(config, sampler)
    boundaries = _boundaries(config, sampler)
    _check_within(config, steps, boundaries)
    check_divisible(
        config.general_batch,
        config.balanced_identities * config.images_per_identity,
        strategy.num_replicas_in_sync,
    )
    evaluations = make_evaluations(
        config.eval_sets, data.heldout, config.seed, unreadable=unreadable
    )
    heldout = evaluations[0].source if data.heldout is not None else None
    with strategy.scope():
        loss_scaling = factory.set_precision(config.precision)
        teacher = open_run_teacher(config.teacher, train, config.flip)
        # Loading a model draws numbers: the student's are the same with any teacher,
        # with a cache of it and with none.
        keras.utils.set_random_seed(config.seed)
        model = _make_model(config, teacher, train.num_identities)
        schedule = factory.make_schedule(
            config.schedule,
            config.learning_rate,
            steps,
            config.warmup_steps,
            boundaries,
            config.lr_gamma,
        )
        model.compile(
            make_optimizer(config.optimizer, schedule, config.momentum),
            weight_decay=config.weight_decay,
            clip_norm=config.clip_norm,
            loss_scaling=loss_scaling,
        )
    return Parts(
        train=train,
        heldout=heldout,
        note=data.note,
        unreadable=unreadable,
        evaluations=evaluations,
        sampler=sampler,
        steps=steps,
        model=model,
        teacher=teacher,
    )


def _make_model(config, teacher, num_identities):
    student = factory.make_student(config.model, **_backbone_arguments(config))
    head = factory.make_head(
        config.head,
        num_identities,
        config.scale,
        config.margin,
        gradient=config.head_gradient,
        sample_rate=config.head_sample_rate,
        seed=config.seed,
    )
    _check_parts(config, teacher, head)
    if teacher is None:
        return FaceClassifier(student, head, config.margin_weight)
    teacher_dim = teacher.embedding_dim
    centres = factory.load_centres(config.teacher_centres, num_identities, teacher_dim)
    losses = factory.make_losses(
        config.distill,
        teacher.centres if centres is None else centres,
        student_dim=student.output_shape[-1],
        teacher_dim=teacher_dim,
        num_identities=num_identities,
        head=head,
        scale=config.scale,
    )
    return Distiller(student, teacher.in_step, losses, head, config.margin_weight)


def _total_steps(config, sampler):
    if (config.steps is None) == (config.epochs is None):
        raise ValueError(
            "Give one of `--steps` and `--epochs`. Received: "
            f"steps={config.steps}, epochs={config.epochs}"
        )
    if config.steps is not None:
        return config.steps
    return max(1, math.ceil(config.epochs * sampler.steps_per_epoch))


def _boundaries(config, sampler):
    per_unit = 1 if config.steps is not None else sampler.steps_per_epoch
    return [
        round(p * per_unit)
        for p in factory.numbers("lr_milestones", config.lr_milestones)
    ]


def _check_within(config, steps, boundaries):
    """Raises `ValueError` for what would happen after the run's last step, or never."""
    if config.warmup_steps >= steps:
        raise ValueError(
            f"`--warmup_steps` must be below the steps of the run, {steps}: the "
            f"learning rate would never be full. Received: {config.warmup_steps}"
        )
    edges = [config.warmup_steps - 1, *boundaries, steps]
    if config.schedule == "step" and any(
        late <= early for early, late in zip(edges, edges[1:])
    ):
        unit = "steps" if config.epochs is None else "epochs"
        raise ValueError(
            f"`--lr_milestones` must increase, in {unit}, and lie between the warm-up "
            f"of {config.warmup_steps} steps and the end of the run at step {steps}. "
            f"Received: {','.join(config.lr_milestones)}, at steps "
            f"{', '.join(map(str, boundaries))}"
        )
    first = profiled_steps(config.profile_steps)[:1]
    if first and first[0] > steps:
        raise ValueError(
            f"`--profile_steps` must begin within the run, of {steps} steps. "
            f"Received: {config.profile_steps}"
        )


def _backbone_arguments(config):
    arguments = {
        "embedding_dim": config.embedding_dim,
        "width": config.width,
        "input_size": config.input_size,
    }
    if config.model == "mobilefacenet":
        arguments["activation"] = config.activation
    else:
        arguments["dropout"] = config.dropout
    return arguments


def _check_parts(config, teacher, head):
    """Raises `ValueError` where the parts do not make a run."""
    if teacher is None and config.distill:
        raise ValueError(
            f"`--distill={config.distill}` needs a teacher: give --teacher=FILE.keras, "
            "the workdir of a finished run or cache:DIR"
        )
    if teacher is not None and not config.distill:
        raise ValueError(
            f"`--teacher={config.teacher}` is given but nothing to learn from it: add "
            "--distill=ekd:100%,cosine:100"
        )
    if "%" in config.distill and not (
        head and config.margin_weight and config.general_batch
    ):
        raise ValueError(
            f"`--distill={config.distill}` asks for a share of the margin loss's "
            "gradient: give a --head, and --margin_weight and --general_batch above 0, "
            "or a plain weight as in --distill=cosine:100. Received: "
            f"--head={config.head}, --margin_weight={config.margin_weight:g}, "
            f"--general_batch={config.general_batch}"
        )
    if teacher is None and head is None:
        raise ValueError("Without a teacher `--head` cannot be none.")
