"""Makes a ReLU student of a trained PReLU one: the remedy for slow int8.

    python tools/swap_activation.py --model=runs/student --data=folder:faces \
        --output=student_relu.keras

int8 runtimes are slow at PReLU. The slopes of the student move to those of
`--activation` in the first half of the steps, while EKD and cosine hold the student to
what it was (or to `--teacher`); in the second half the network settles. The result is
exported like any other: `python -m ekd_tf.export_model --model=student_relu.keras`.
"""

from __future__ import annotations

import dataclasses

from absl import logging

from ekd_tf.checks import check_choice
from ekd_tf.files.outputs import check_file
from ekd_tf.run import command
from ekd_tf.run.settings import setting


@dataclasses.dataclass(frozen=True)
class SwapSettings:
    """The flags of the tool."""

    model: str | None = setting(None, "A .keras file or the workdir of a run.")
    output: str | None = setting(None, "The .keras file to write.")
    data: str | None = setting(
        None,
        "Training images, as for ekd_tf.train. Default: those of the run; a .keras "
        "file by itself needs it.",
    )
    teacher: str | None = setting(
        None, "A .keras file or a workdir. Default: the student as it was."
    )
    activation: str = setting("relu", "relu or leaky_relu.")
    steps: int = setting(300, "Updates.", low=2)
    balanced_identities: int = setting(16, "Identities a batch.", low=2)
    images_per_identity: int = setting(4, "Images of each.", low=2)
    learning_rate: float = setting(0.01, "Of SGD at full height.")
    distill: str = setting(
        "ekd:30:temperature=0.1:memory=0,cosine:100", "Losses as name:weight,... ."
    )
    seed: int = setting(0, "Of the batches and flips.", low=0)


def slope_of(activation):
    """Returns the slope below 0 of what a PReLU can be swapped for."""
    from ekd_tf.models.blocks import INITIAL_SLOPE

    slopes = {"relu": 0.0, "leaky_relu": INITIAL_SLOPE}
    return slopes[check_choice("activation", activation, tuple(slopes))]


def prelu_layers(model):
    """Returns the PReLU layers of a functional model, or raises `ValueError`."""
    import keras

    from ekd_tf.models.layers import PReLU

    kinds = (PReLU, keras.layers.PReLU)
    layers = [layer for layer in model.layers if isinstance(layer, kinds)]
    if not layers:
        raise ValueError(
            f"`model` must have PReLU layers to swap. {model.name!r} has none"
        )
    return layers


def swap_prelu(model, activation):
    """Returns a copy of a functional model with every PReLU swapped.

    The learned slopes are dropped: `slope_glide` is to move them before.
    """
    import keras

    slope = slope_of(activation)
    swapped = {layer.name for layer in prelu_layers(model)}

    def clone(layer):
        if layer.name not in swapped:
            return type(layer).from_config(layer.get_config())
        if not slope:
            return keras.layers.ReLU(name=layer.name)
        # Positional: the argument is called `alpha` in Keras 2.
        return keras.layers.LeakyReLU(slope, name=layer.name)

    copy = keras.models.clone_model(model, clone_function=clone)
    for layer in copy.layers:
        # Input layers may be renamed.
        if layer.weights:
            layer.set_weights(model.get_layer(layer.name).get_weights())
    return copy


def slope_glide(model, activation):
    """Freezes the slopes of a model; returns a function that moves them.

    It takes the fraction of the way, at 1 of which `swap_prelu` changes nothing. A
    network whose activations change at once would have to be trained anew.
    """
    target, starts = slope_of(activation), []
    for layer in prelu_layers(model):
        layer.trainable = False
        starts.append((layer.alpha, layer.alpha.numpy()))

    def move(fraction):
        for slope, start in starts:
            slope.assign(start + fraction * (target - start))

    return move


def main(settings):
    """Moves the slopes under distillation and saves the swapped student."""
    import keras
    import tensorflow as tf

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

    if not settings.output.endswith(".keras"):
        raise ValueError(f"`output` must be a .keras file. Received: {settings.output}")
    check_file("output", settings.output)
    seed, steps = settings.seed, settings.steps
    keras.utils.set_random_seed(seed)
    student = load_embedder(settings.model)
    teacher = load_embedder(settings.teacher or settings.model)
    student.trainable = True
    move = slope_glide(student, settings.activation)
    if settings.data:
        source = factory.make_source(settings.data)
    else:
        source, _ = sources_of_run(settings.model)
    sampler = factory.make_sampler(
        source, 0, settings.balanced_identities, settings.images_per_identity, seed
    )
    losses = factory.make_losses(
        settings.distill,
        student_dim=student.output_shape[-1],
        teacher_dim=teacher.output_shape[-1],
    )
    model = Distiller(student, teacher, losses)
    schedule = factory.make_schedule(
        "cosine", settings.learning_rate, steps, min(20, steps // 2), [], 0.1
    )
    model.compile(make_optimizer("sgd", schedule), weight_decay=0.0, clip_norm=5.0)
    pipeline = make_pipeline(
        source, sampler, student.input_shape[1], seed=seed, steps=steps
    )
    line = ProgressLine(steps)
    hooks = [
        Every(1, lambda step: move(min(1.0, step.number / (steps // 2)))),
        ProgressHook(line, sampler.batch_size),
    ]
    try:
        step = compile_step(model, make_strategy("none"))
        run_steps(step, pipeline.dataset, 0, steps, hooks)
    except tf.errors.OpError:
        pipeline.check_images(line.n)
        raise
    finally:
        line.close()
    swap_prelu(student, settings.activation).save(settings.output)
    logging.info("Wrote %s", settings.output)


if __name__ == "__main__":
    command.run(main, "swap_activation", SwapSettings, required=["model", "output"])
