"""One export from its settings: `export_model`, read from top to bottom."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from ekd_tf.data import sample_faces
from ekd_tf.data import sample_images
from ekd_tf.embedders import load_embedder
from ekd_tf.embedders import model_file
from ekd_tf.evaluation import read_calibration
from ekd_tf.export import export_student
from ekd_tf.files.outputs import make_folder
from ekd_tf.run.data import flags_of_run
from ekd_tf.run.data import sources_of_run
from ekd_tf.run.data import unreadable_of
from ekd_tf.run.factory import make_source
from ekd_tf.run.provenance import provenance_of_run


def export_model(settings: Any, command: Sequence[str]) -> None:
    """Exports a model by `ExportSettings`, and prints what was written."""
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
    facts = provenance_of_run(run, command)
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
    )
    lines = [report.to_table(), *report.notes, f"Written to {report.path}"]
    sys.stdout.write("\n".join(lines) + "\n")
