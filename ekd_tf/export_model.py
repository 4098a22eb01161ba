"""Exports a student as SavedModel and TFLite: `python -m ekd_tf.export_model`."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from typing import Any

from ekd_tf.files.outputs import make_folder
from ekd_tf.run import command
from ekd_tf.run.settings import Needs
from ekd_tf.run.settings import setting

_INT8 = Needs("int8 in --formats", lambda settings: "int8" in settings.formats)


@dataclasses.dataclass(frozen=True)
class ExportSettings:
    """The flags of the command."""

    model: str = setting(None, "A .keras file or the workdir of a run.")
    output: str | None = setting(
        None, "Parent of the exports. Default: export/ in the workdir."
    )
    name: str = setting("student", "Name of the student.")
    version: int | None = setting(
        None, "Version to write; default: one above the highest there is.", low=1
    )
    data: str | None = setting(
        None,
        "Real images to compare every artefact on: folder:DIR or synthetic:... . "
        "Default: the data of the run of --model.",
    )
    num_images: int = setting(
        256, "How many of them; fewer than 256 prove little.", low=1
    )
    minimum_cosine: float | None = setting(
        None,
        "Least cosine with the Keras model on any image, for every artefact; default: "
        "0.9999, for float16 0.999, for int8 a mean of 0.99 and TPR@1e-3 within 0.01.",
    )
    formats: tuple[str, ...] = setting(
        ("float32", "float16"),
        "What to write beside the SavedModel: float32, float16, dynamic, int8, onnx.",
    )
    calibration_images: str | None = setting(
        None,
        "Training images int8 takes its ranges from, as for ekd_tf.train --data. "
        "Default: the training data of the run of --model.",
        needs=_INT8,
    )
    num_calibration_images: int = setting(200, "How many of them.", low=1, needs=_INT8)
    int8_output: str = setting(
        "float32", "What int8 returns: float32 or int8.", needs=_INT8
    )
    training_data: str | None = setting(
        None, "For the card: what the student was trained on."
    )
    licence: str | None = setting(
        None, "For the card: under which terms it may be used."
    )
    skip_corrupt: int | None = setting(
        None,
        "Unreadable images to leave out before it stops. Default: as many as the run "
        "of --model allowed, or none.",
        low=0,
    )
    force_data: bool = setting(
        False, "Use the data of the run of --model though it has changed since."
    )


def main(settings: ExportSettings) -> None:
    """Exports the model, and prints what was written."""
    from ekd_tf.data import sample_faces
    from ekd_tf.data import sample_images
    from ekd_tf.embedders import load_embedder
    from ekd_tf.embedders import model_file
    from ekd_tf.evaluation import read_calibration
    from ekd_tf.export import export_student
    from ekd_tf.run.data import flags_of_run
    from ekd_tf.run.data import sources_of_run
    from ekd_tf.run.data import unreadable_of
    from ekd_tf.run.factory import make_source
    from ekd_tf.run.progress import begin_line
    from ekd_tf.run.provenance import provenance_of_run

    path = pathlib.Path(settings.model)
    home = path if path.is_dir() else path.parent
    directory = make_folder("output", settings.output or home / "export")
    model = load_embedder(settings.model)
    batch, size, *_ = model.input_shape
    if batch is not None:
        raise ValueError(
            f"{settings.model} takes batches of {batch} images alone; what is exported "
            "takes any number. Make the model again with keras.Input((size, size, 3)), "
            "set_weights() of this one, and save it"
        )
    run, is_int8 = flags_of_run(path), "int8" in settings.formats
    unreadable = unreadable_of(path, settings.skip_corrupt)
    train: Any = None
    images: Any = None
    if not settings.data or (is_int8 and not settings.calibration_images):
        if run is None:
            raise ValueError(
                f"{path} is not the workdir of a run, so that its data is unknown: "
                "give --data and, for int8, --calibration_images"
            )
        train, heldout = sources_of_run(path, unreadable, settings.force_data)
        images = heldout or train
    if settings.data:
        images = make_source(settings.data, None, unreadable)
    representative = None
    if is_int8:
        if settings.calibration_images:
            train = make_source(settings.calibration_images, None, unreadable)
        count = settings.num_calibration_images
        representative = sample_images(train, size, count, unreadable)
    faces, labels = sample_faces(
        images, size, settings.num_images, unreadable=unreadable
    )
    facts = provenance_of_run(run, "-m", "ekd_tf.export_model")
    facts["licence"] = settings.licence
    facts["training_data"] = settings.training_data or facts["training_data"]
    report = export_student(
        model,
        directory,
        faces,
        name=settings.name,
        version=settings.version,
        minimum_cosine=settings.minimum_cosine,
        formats=settings.formats,
        labels=labels,
        representative=representative,
        int8_output=settings.int8_output,
        facts=facts,
        calibration=read_calibration(model_file(path)),
        progress=begin_line,
    )
    lines = [report.to_table(), *report.notes, f"Written to {report.path}"]
    sys.stdout.write("\n".join(lines) + "\n")


def run() -> None:
    """Entry point of the console script."""
    command.run(main, "ekd_tf.export_model", ExportSettings, required=["model"])


if __name__ == "__main__":
    run()
