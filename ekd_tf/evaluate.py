"""Evaluates a student, and its gap to a teacher: `python -m ekd_tf.evaluate`."""

import pathlib
import sys

from absl import app
from absl import flags

MODEL = flags.DEFINE_string("model", None, "A .keras file or the workdir of a run.")
TEACHER = flags.DEFINE_string(
    "teacher", "none", "The same for the teacher, or none: adds the gap."
)
ON = flags.DEFINE_string(
    "on",
    None,
    "Images of identities neither was trained on: folder:DIR or synthetic:... . "
    "Default: those the run of --model held out.",
)
FPRS = flags.DEFINE_list("fprs", "1e-1,1e-2,1e-3,1e-4", "Target FPRs.")
FLIP = flags.DEFINE_bool("flip", True, "Add the embedding of the mirror image.")
SEED = flags.DEFINE_integer("seed", 0, "Of the drawing of pairs for the accuracy.", 0)
OUTPUT = flags.DEFINE_string(
    "output", None, "Folder for heldout.json, roc.png and similarities.png."
)


def main(argv):
    """Runs the evaluation the flags describe."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    try:
        evaluate()
    except ValueError as error:
        raise SystemExit(f"ekd_tf.evaluate: {error}") from None


def evaluate():
    """Loads both models and the images, and prints and writes the figures."""
    # TensorFlow takes seconds to import: `--help` must not wait for it.
    from ekd_tf import factory
    from ekd_tf.evaluation import HeldoutEvaluation
    from ekd_tf.session import sources_of_run

    model = factory.load_embedder(MODEL.value)
    teacher = factory.make_teacher(TEACHER.value)
    source = factory.make_source(ON.value) if ON.value else None
    if source is None:
        _, source = sources_of_run(MODEL.value)
    if source is None:
        raise ValueError(
            f"The run in {MODEL.value} held out no identities: give --on=folder:DIR "
            "with identities it was not trained on"
        )
    evaluation = HeldoutEvaluation(
        source,
        model,
        model.input_shape[1],
        teacher=teacher,
        teacher_size=None if teacher is None else teacher.input_shape[1],
        fprs=factory.numbers("fprs", FPRS.value),
        flip=FLIP.value,
        seed=SEED.value,
    )
    output = None
    if OUTPUT.value:
        output = pathlib.Path(OUTPUT.value)
        output.mkdir(parents=True, exist_ok=True)
    result = evaluation(plots=output)
    if output is not None:
        result.write(output)
    sys.stdout.write(result.text() + "\n")


def run():
    """Entry point of the console script."""
    flags.mark_flag_as_required("model")
    app.run(main)


if __name__ == "__main__":
    run()
