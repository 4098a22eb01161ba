"""Makes a ReLU student of a trained PReLU one: the remedy for slow int8.

    python tools/swap_activation.py --model=runs/student --data=folder:faces \
        --output=student_relu.keras

int8 runtimes are slow at PReLU. The slopes of the student move to those of
`--activation` in the first half of the steps, while EKD and cosine hold the student to
what it was (or to `--teacher`); in the second half the network settles. The result is
exported like any other: `python -m ekd_tf.export_model --model=student_relu.keras`.
"""

from absl import flags
from absl import logging

from ekd_tf.files.outputs import check_file
from ekd_tf.run import command

MODEL = flags.DEFINE_string("model", None, "A .keras file or the workdir of a run.")
OUTPUT = flags.DEFINE_string("output", None, "The .keras file to write.")
DATA = flags.DEFINE_string(
    "data",
    None,
    "Training images, as for ekd_tf.train. Default: those of the run; a .keras file by "
    "itself needs it.",
)
TEACHER = flags.DEFINE_string(
    "teacher", None, "A .keras file or a workdir. Default: the student as it was."
)
ACTIVATION = flags.DEFINE_string("activation", "relu", "relu or leaky_relu.")
STEPS = flags.DEFINE_integer("steps", 300, "Updates.", 2)
IDENTITIES = flags.DEFINE_integer("balanced_identities", 16, "Identities a batch.", 2)
PER_IDENTITY = flags.DEFINE_integer("images_per_identity", 4, "Images of each.", 2)
LEARNING_RATE = flags.DEFINE_float("learning_rate", 0.01, "Of SGD at full height.")
DISTILL = flags.DEFINE_string(
    "distill",
    "ekd:30:temperature=0.1:memory=0,cosine:100",
    "Losses as name:weight,... .",
)
SEED = flags.DEFINE_integer("seed", 0, "Of the batches and flips.", 0)


def swap():
    """Moves the slopes under distillation and saves the swapped student."""
    import keras
    import tensorflow as tf
    from prelu_slopes import SlopeGlide
    from prelu_slopes import swap_prelu

    from ekd_tf.data import make_pipeline
    from ekd_tf.embedders import load_embedder
    from ekd_tf.run import factory
    from ekd_tf.run.data import sources_of_run
    from ekd_tf.run.progress import ProgressHook
    from ekd_tf.run.progress import ProgressLine
    from ekd_tf.training.distiller import Distiller
    from ekd_tf.training.loop import Every
    from ekd_tf.training.loop import compile_step
    from ekd_tf.training.loop import run_steps
    from ekd_tf.training.optimizers import make_optimizer
    from ekd_tf.training.strategy import make_strategy

    if not OUTPUT.value.endswith(".keras"):
        raise ValueError(f"`output` must be a .keras file. Received: {OUTPUT.value}")
    check_file("output", OUTPUT.value)
    keras.utils.set_random_seed(SEED.value)
    student = load_embedder(MODEL.value)
    teacher = load_embedder(TEACHER.value or MODEL.value)
    student.trainable = True
    glide = SlopeGlide(student, ACTIVATION.value)
    if DATA.value:
        source = factory.make_source(DATA.value)
    else:
        source, _ = sources_of_run(MODEL.value)
    sampler = factory.make_sampler(
        source, 0, IDENTITIES.value, PER_IDENTITY.value, SEED.value
    )
    steps = STEPS.value
    losses = factory.make_losses(
        DISTILL.value,
        student_dim=student.output_shape[-1],
        teacher_dim=teacher.output_shape[-1],
    )
    model = Distiller(student, teacher, losses)
    schedule = factory.make_schedule(
        "cosine", LEARNING_RATE.value, steps, min(20, steps // 2), [], 0.1
    )
    model.compile(make_optimizer("sgd", schedule), weight_decay=0.0, clip_norm=5.0)
    pipeline = make_pipeline(
        source, sampler, student.input_shape[1], seed=SEED.value, steps=steps
    )
    half = steps // 2
    line = ProgressLine(steps)
    try:
        run_steps(
            compile_step(model, make_strategy("none")),
            pipeline.dataset,
            0,
            steps,
            [
                Every(1, lambda step: glide.at(min(1.0, step.number / half))),
                ProgressHook(line, sampler.batch_size),
            ],
        )
    except tf.errors.OpError as error:
        raise pipeline.failure(line.n) or error from None
    finally:
        line.close()
    swap_prelu(student, ACTIVATION.value).save(OUTPUT.value)
    logging.info("Wrote %s", OUTPUT.value)


if __name__ == "__main__":
    command.run(swap, "swap_activation", required=["model", "output"])
