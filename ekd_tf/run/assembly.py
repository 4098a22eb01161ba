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


class Values:
    """Flag values as attributes."""

    def __init__(self, values: dict):
        self.__dict__.update(values)


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


def assemble(v: Values, strategy: tf.distribute.Strategy, workdir: Workdir) -> Parts:
    """Builds the parts of a run.

    Args:
        v: The flags of `ekd_tf.train`.
        strategy: In whose scope the model is made.
        workdir: Of the run; an earlier start may have recorded its images.

    Raises:
        ValueError: A value is wrong, by itself or beside the others or the data.
    """
    unreadable = Unreadable(v.skip_corrupt)
    data = open_run_data(
        vars(v),
        workdir,
        unreadable,
        force=v.force_data,
        cache_dir=v.workdir if is_chief(strategy) else None,
    )
    train = data.train
    check_labels(train.labels, train.num_identities)
    sampler = factory.make_sampler(
        train, v.general_batch, v.balanced_identities, v.images_per_identity, v.seed
    )
    steps = _total_steps(v, sampler)
    boundaries = _boundaries(v, sampler)
    _check_within(v, steps, boundaries)
    check_divisible(
        v.general_batch,
        v.balanced_identities * v.images_per_identity,
        strategy.num_replicas_in_sync,
    )
    evaluations = make_evaluations(
        v.eval_sets, data.heldout, v.seed, unreadable=unreadable
    )
    heldout = evaluations[0].source if data.heldout is not None else None
    with strategy.scope():
        loss_scaling = factory.set_precision(v.precision)
        teacher = open_run_teacher(v.teacher, train, v.flip)
        # Loading a model draws numbers: the student's are the same with any teacher,
        # with a cache of it and with none.
        keras.utils.set_random_seed(v.seed)
        model = _make_model(v, teacher, train.num_identities)
        schedule = factory.make_schedule(
            v.schedule,
            v.learning_rate,
            steps,
            v.warmup_steps,
            boundaries,
            v.drop_factor,
        )
        model.compile(
            make_optimizer(v.optimizer, schedule, v.momentum),
            weight_decay=v.weight_decay,
            clip_norm=v.clip_norm,
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


def _make_model(v, teacher, num_identities):
    student = factory.make_student(v.model, **_backbone_arguments(v))
    head = factory.make_head(
        v.head,
        num_identities,
        v.scale,
        v.margin,
        factory.numbers("combined_margins", v.combined_margins),
        gradient=v.head_gradient,
        sample_rate=v.head_sample_rate,
        seed=v.seed,
    )
    _check_parts(v, teacher, head)
    if teacher is None:
        return FaceClassifier(student, head, v.margin_weight)
    teacher_dim = teacher.embedding_dim
    centres = factory.load_centres(v.teacher_centres, num_identities, teacher_dim)
    losses = factory.make_losses(
        v.distill,
        teacher.centres if centres is None else centres,
        student_dim=student.output_shape[-1],
        teacher_dim=teacher_dim,
        num_identities=num_identities,
        head=head,
        scale=v.scale,
    )
    return Distiller(student, teacher.in_step, losses, head, v.margin_weight)


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


def _check_within(v, steps, boundaries):
    """Raises `ValueError` for what would happen after the run's last step, or never."""
    if v.warmup_steps >= steps:
        raise ValueError(
            f"`--warmup_steps` must be below the steps of the run, {steps}: the "
            f"learning rate would never be full. Received: {v.warmup_steps}"
        )
    edges = [v.warmup_steps - 1, *boundaries, steps]
    if v.schedule == "step" and any(
        late <= early for early, late in zip(edges, edges[1:])
    ):
        unit = "steps" if v.epochs is None else "epochs"
        raise ValueError(
            f"`--drop_at` must increase, in {unit}, and lie between the warm-up of "
            f"{v.warmup_steps} steps and the end of the run at step {steps}. Received: "
            f"{','.join(map(str, v.drop_at))}, at steps "
            f"{', '.join(map(str, boundaries))}"
        )
    first = profiled_steps(v.profile_steps)[:1]
    if first and first[0] > steps:
        raise ValueError(
            f"`--profile_steps` must begin within the run, of {steps} steps. "
            f"Received: {v.profile_steps}"
        )


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


def _check_parts(v, teacher, head):
    """Raises `ValueError` where the parts do not make a run."""
    if teacher is None and v.distill:
        raise ValueError(
            f"`--distill={v.distill}` needs a teacher: give --teacher=FILE.keras, "
            "the workdir of a finished run or cache:DIR"
        )
    if teacher is not None and not v.distill:
        raise ValueError(
            f"`--teacher={v.teacher}` is given but nothing to learn from it: add "
            "--distill=ekd:100%,cosine:100"
        )
    if "%" in v.distill and not (head and v.margin_weight and v.general_batch):
        raise ValueError(
            f"`--distill={v.distill}` asks for a share of the margin loss's gradient: "
            "give a --head, and --margin_weight and --general_batch above 0, or a "
            "plain weight as in --distill=cosine:100. Received: "
            f"--head={v.head}, --margin_weight={v.margin_weight:g}, "
            f"--general_batch={v.general_batch}"
        )
    if teacher is None and head is None:
        raise ValueError("Without a teacher `--head` cannot be none.")
