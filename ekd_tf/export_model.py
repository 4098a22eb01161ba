"""Exports a student as SavedModel and TFLite: `python -m ekd_tf.export_model`."""

import pathlib
import sys

from absl import app
from absl import flags

MODEL = flags.DEFINE_string("model", None, "A .keras file or the workdir of a run.")
DIRECTORY = flags.DEFINE_string(
    "directory", None, "Parent of the exports. Default: export/ in the workdir."
)
NAME = flags.DEFINE_string("name", "student", "Name of the student.")
VERSION = flags.DEFINE_integer(
    "version", None, "Version to write; default: one above the highest there is.", 1
)
IMAGES = flags.DEFINE_string(
    "images",
    None,
    "Real images to compare every artefact on: folder:DIR or synthetic:... . "
    "Default: the data of the run of --model.",
)
NUM_IMAGES = flags.DEFINE_integer("num_images", 64, "How many of them.", 1)
MINIMUM_COSINE = flags.DEFINE_float(
    "minimum_cosine", 0.9999, "Least cosine with the Keras model on any image."
)


def main(argv):
    """Runs the export the flags describe."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    try:
        export()
    except (OSError, ValueError) as error:
        raise SystemExit(f"ekd_tf.export_model: {error}") from None


def export():
    """Exports the model and prints what was written and how close it is."""
    # TensorFlow takes seconds to import: `--help` must not wait for it.
    from ekd_tf import factory
    from ekd_tf.export import export_student
    from ekd_tf.session import sources_of_run

    model = factory.load_embedder(MODEL.value)
    if IMAGES.value:
        source = factory.make_source(IMAGES.value)
    else:
        train, heldout = sources_of_run(MODEL.value)
        source = heldout or train
    directory = pathlib.Path(DIRECTORY.value or pathlib.Path(MODEL.value) / "export")
    report = export_student(
        model,
        directory,
        factory.sample_images(source, model.input_shape[1], NUM_IMAGES.value),
        name=NAME.value,
        version=VERSION.value,
        minimum_cosine=MINIMUM_COSINE.value,
    )
    sys.stdout.write(report.to_table() + "\n")


def run():
    """Entry point of the console script."""
    flags.mark_flag_as_required("model")
    app.run(main)


if __name__ == "__main__":
    run()
