"""Exports a student as SavedModel and TFLite: `python -m ekd_tf.export_model`."""

from __future__ import annotations

import dataclasses
import sys

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
    """Exports the model."""
    # TensorFlow takes seconds to import: `--help` must not wait for it.
    from ekd_tf.run import exporting

    words = ["python", "-m", "ekd_tf.export_model", *sys.argv[1:]]
    exporting.export_model(settings, words)


def run() -> None:
    """Entry point of the console script."""
    command.run(main, "ekd_tf.export_model", ExportSettings, required=["model"])


if __name__ == "__main__":
    run()
