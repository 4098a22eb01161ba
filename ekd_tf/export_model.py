"""Exports a student as SavedModel and TFLite: `python -m ekd_tf.export_model`."""

import pathlib
import sys

from absl import app
from absl import flags

from ekd_tf.run import command
from ekd_tf.run.effects import Needs

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
NUM_IMAGES = flags.DEFINE_integer(
    "num_images", 256, "How many of them; fewer than 256 prove little.", 1
)
MINIMUM_COSINE = flags.DEFINE_float(
    "minimum_cosine",
    None,
    "Least cosine with the Keras model on any image, for every artefact; default: "
    "0.9999, for float16 0.999, for int8 a mean of 0.99 and TPR@1e-3 within 0.01.",
)
FORMATS = flags.DEFINE_list(
    "formats",
    "float32,float16",
    "What to write beside the SavedModel: float32, float16, dynamic, int8, onnx.",
)
REPRESENTATIVE = flags.DEFINE_string(
    "representative",
    None,
    "Training images int8 takes its ranges from, as for ekd_tf.train --data. "
    "Default: the training data of the run of --model.",
)
NUM_REPRESENTATIVE = flags.DEFINE_integer(
    "num_representative", 200, "How many of them.", 1
)
INT8_OUTPUT = flags.DEFINE_string(
    "int8_output", "float32", "What int8 returns: float32 or int8."
)
TRAINING_DATA = flags.DEFINE_string(
    "training_data", None, "For the card: what the student was trained on."
)
LICENCE = flags.DEFINE_string(
    "licence", None, "For the card: under which terms it may be used."
)
SKIP_CORRUPT = flags.DEFINE_integer(
    "skip_corrupt",
    None,
    "Unreadable images to leave out before it stops. Default: as many as the run of "
    "--model allowed, or none.",
    0,
)
FORCE_DATA = flags.DEFINE_bool(
    "force_data",
    False,
    "Use the data of the run of --model though it has changed since.",
)

WAY_OUT = "remove or replace what is damaged, or allow N with --skip_corrupt=N"

_EFFECTS = (
    Needs(
        "representative num_representative int8_output",
        "int8 in --formats",
        lambda v: "int8" in v["formats"],
    ),
)


def main(argv):
    """Runs the export the flags describe."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    try:
        command.check_effects(sys.modules[__name__], _EFFECTS)
        export(sys.argv)
    except (OSError, ValueError) as error:
        # Not at the top: it would load NumPy and TensorFlow for --help.
        from ekd_tf.data.unreadable import explain

        text = explain(error, WAY_OUT)
        raise SystemExit(f"ekd_tf.export_model: {text}") from None


def export(argv):
    """Exports the model and prints what was written and how close it is."""
    # TensorFlow takes seconds to import: `--help` must not wait for it.
    from ekd_tf.data import sample_faces
    from ekd_tf.data import sample_images
    from ekd_tf.embedders import load_embedder
    from ekd_tf.embedders import model_file
    from ekd_tf.evaluation import read_calibration
    from ekd_tf.export import export_student
    from ekd_tf.files.outputs import make_folder
    from ekd_tf.run import factory
    from ekd_tf.run.provenance import provenance_of_run
    from ekd_tf.run.session import sources_of_run
    from ekd_tf.run.session import unreadable_of

    path = pathlib.Path(MODEL.value)
    home = path if path.is_dir() else path.parent
    directory = make_folder("directory", DIRECTORY.value or home / "export")
    model = load_embedder(MODEL.value)
    batch, size, *_ = model.input_shape
    if batch is not None:
        raise ValueError(
            f"{MODEL.value} takes batches of {batch} images alone; what is exported "
            "takes any number. Make the model again with keras.Input((size, size, 3)), "
            "set_weights() of this one, and save it"
        )
    run = run_of(path)
    unreadable = unreadable_of(path, SKIP_CORRUPT.value)
    train = heldout = None
    if not IMAGES.value or ("int8" in FORMATS.value and not REPRESENTATIVE.value):
        if run is None:
            raise ValueError(
                f"{path} is not the workdir of a run, so that its data is unknown: "
                "give --images and, for int8, --representative"
            )
        train, heldout = sources_of_run(path, unreadable, FORCE_DATA.value)
    images = heldout or train
    if IMAGES.value:
        images = factory.make_source(IMAGES.value, unreadable=unreadable)
    representative = None
    if "int8" in FORMATS.value:
        if REPRESENTATIVE.value:
            train = factory.make_source(REPRESENTATIVE.value, unreadable=unreadable)
        representative = sample_images(
            train, size, NUM_REPRESENTATIVE.value, unreadable
        )
    faces, labels = sample_faces(images, size, NUM_IMAGES.value, unreadable=unreadable)
    facts = provenance_of_run(run, ["python", "-m", "ekd_tf.export_model", *argv[1:]])
    facts["licence"] = LICENCE.value
    facts["training_data"] = TRAINING_DATA.value or facts["training_data"]
    report = export_student(
        model,
        directory,
        faces,
        name=NAME.value,
        version=VERSION.value,
        minimum_cosine=MINIMUM_COSINE.value,
        formats=FORMATS.value,
        labels=labels,
        representative=representative,
        int8_output=INT8_OUTPUT.value,
        facts=facts,
        calibration=read_calibration(model_file(path)),
    )
    sys.stdout.write("\n".join([report.to_table(), *report.notes]) + "\n")


def run_of(path):
    """Returns the flags of the run in a workdir, or None where there is none."""
    from ekd_tf.run.workdir import Workdir

    if not (path / "run.json").is_file():
        return None
    return Workdir(path, create=False).read_run()["flags"]


def run():
    """Entry point of the console script."""
    command.run(main, "ekd_tf.export_model", ["model"])


if __name__ == "__main__":
    run()
