"""Evaluates a model, and its gap to a teacher: `python -m ekd_tf.evaluate`."""

from __future__ import annotations

import dataclasses
import pathlib
import sys

from absl import logging

from ekd_tf.run import command
from ekd_tf.run.onednn import use_onednn
from ekd_tf.run.settings import Needs
from ekd_tf.run.settings import setting

# Resamples behind an interval: of identities, each over all pairs, and of folds.
_IDENTITY_REPLICATES = 200
_FOLD_REPLICATES = 1000


@dataclasses.dataclass(frozen=True)
class EvaluateSettings:
    """The flags of the command."""

    model: str | None = setting(
        None,
        "A .keras, .onnx or .tflite file, a SavedModel's directory or the workdir of a "
        "run. FILE@-1..1 for a model of float input that takes pixels from -1 to 1, "
        "FILE@bgr for one that takes blue first.",
    )
    teacher: str = setting("none", "The same for the teacher, or none: adds the gap.")
    baseline: str = setting(
        "none",
        "The same for a student trained without the teacher, or none: adds the share "
        "of the gap that is closed.",
    )
    eval_sets: tuple[str, ...] = setting(
        (),
        "NAME:KIND:PATH of a set to evaluate on, as in ekd_tf.train; may be repeated. "
        "NAME:pairs:FILE is a verification set, NAME:allpairs:FILE every pair of its "
        "images; KIND:PATH may be images like --data of ekd_tf.train, of identities no "
        "model was trained on: every pair counts. Default: the identities that the run "
        "of --model held out, unless --ijb is given.",
        repeated=True,
    )
    ijb: tuple[str, ...] = setting(
        (), "Folders of IJB-B, IJB-C or sets laid out as they are (meta/, loose_crop/)."
    )
    ijb_switches: tuple[str, ...] = setting(
        ("N1D1F1", "N0D0F0"),
        "How images are pooled: N1 keep the norm, D1 multiply by the detector's score, "
        "F1 add the mirror image. insightface reports N1D1F1, TFace N0D0F0. Or all.",
        needs=Needs("--ijb", lambda settings: settings.ijb),
    )
    identify: bool = setting(
        False, "Search a gallery of the images too: ranks, TPIR at FPIRs."
    )
    distractors: str | None = setting(
        None, "Images of other people that join that gallery, like --data."
    )
    fprs: tuple[str, ...] = setting(("1e-1", "1e-2", "1e-3", "1e-4"), "Target FPRs.")
    flip: bool = setting(True, "Add the embedding of the mirror image.")
    batch_size: int = setting(128, "Images per forward pass.", low=1)
    seed: int = setting(0, "Of drawn pairs and of resampling.", low=0)
    intervals: bool = setting(
        True, "Give bootstrap 95 % intervals over identities or folds."
    )
    worst: int = setting(
        10,
        "Critical pairs of each kind to name and draw.",
        low=0,
        needs=Needs("--teacher", lambda settings: settings.teacher != "none"),
    )
    cache: str | None = setting(
        None,
        "Folder to keep embeddings in, so that a second evaluation embeds a sample "
        "alone and an interrupted one continues. Default: embeddings/ in --output.",
    )
    output: str | None = setting(
        None, "Folder for report.md, and a JSON file and pictures per set."
    )
    calibrate_fpr: float | None = setting(
        None,
        "Find the threshold for this FPR on the images of --eval_sets, of one image "
        "without its mirror image, for --model and for what was exported of it, and "
        "write each to card.json beside.",
    )
    calibrate_flip: bool = setting(
        False,
        "Calibrate embeddings to which that of the mirror image is added, for programs "
        "that add it.",
    )
    skip_corrupt: int | None = setting(
        None,
        "Unreadable images to leave out before it stops; the report lists them. "
        "Default: as many as the run of --model allowed, or none.",
        low=0,
    )
    force_data: bool = setting(
        False,
        "Evaluate on what the run of --model held out though its data has changed "
        "since.",
    )


def main(settings: EvaluateSettings) -> None:
    """Loads the models and the images, and prints and writes the figures."""
    use_onednn()
    # TensorFlow takes seconds to import: `--help` must not wait for it.
    from ekd_tf.evaluation import Models
    from ekd_tf.evaluation.calibration import CARD_FILE
    from ekd_tf.files.atomic import write_text
    from ekd_tf.files.outputs import check_file
    from ekd_tf.files.outputs import make_folder
    from ekd_tf.run import evaluators
    from ekd_tf.run.progress import embedding_progress
    from ekd_tf.training.strategy import grow_gpu_memory

    grow_gpu_memory()
    output = make_folder("output", settings.output) if settings.output else None
    if settings.calibrate_fpr is not None:
        card = evaluators.file_of_model(settings.model).with_name(CARD_FILE)
        check_file("calibrate_fpr", card)
    folder = settings.cache or (output and output / "embeddings")
    arguments = {
        "flip": settings.flip,
        "batch_size": settings.batch_size,
        "cache": evaluators.make_cache(folder),
        "progress": embedding_progress(settings.batch_size),
    }
    evaluations, source = _evaluations(settings)
    if settings.calibrate_fpr is not None:
        _check_calibration(settings, source)
    models = Models(
        evaluators.make_source_embedder(settings.model, **arguments),
        evaluators.make_source_embedder(settings.teacher, **arguments),
        evaluators.make_source_embedder(settings.baseline, **arguments),
    )
    sample = source or _linked(evaluations)
    for role, spec in (("teacher", settings.teacher), ("model", settings.model)):
        embedder = models.teacher if role == "teacher" else models.student
        asked = role == "teacher" or evaluators.takes_any_range(spec)
        if sample is not None and embedder is not None and asked:
            line = evaluators.check_range_of_pixels(
                spec, embedder, sample, embedder.input_size, settings.seed, role=role
            )
            sys.stdout.write(f"{line}\n")
    sections = []
    for evaluation in evaluations:
        result = evaluation(models)
        sections.append(result.section())
        sys.stdout.write(f"\n## {result.name}\n\n{result.report()}\n")
        sys.stdout.flush()
        if output is not None:
            result.write(output)
    if output is not None:
        text = "\n".join([*_heading(settings, source), *sections])
        write_text(output / "report.md", text)
    if settings.calibrate_fpr is not None:
        _calibrate(settings, models.student, source, arguments)


def _heading(settings, source):
    """Returns what a report says of its models, images and making."""
    from ekd_tf.run.provenance import provenance

    made = provenance(["python", "-m", "ekd_tf.evaluate", *sys.argv[1:]])
    images = list(settings.eval_sets) or ([source.name] if source is not None else [])
    images = [*images, *([settings.distractors] if settings.distractors else [])]
    facts = {
        "Teacher": settings.teacher,
        "Baseline": settings.baseline,
        "Data": "; ".join([*images, *settings.ijb]),
        "Command": f"`{made['command']}`",
        "Date": made["date"],
        "ekd_tf": made["ekd_tf"],
    }
    return [f"# {settings.model}\n"] + [
        f"{name}: {value}\n" for name, value in facts.items() if value != "none"
    ]


def _evaluations(settings):
    """Returns what to run, and the one labelled source among it or None."""
    from ekd_tf.data import read_template_set
    from ekd_tf.data import readable_images
    from ekd_tf.data import readable_templates
    from ekd_tf.evaluation import IdentificationEvaluation
    from ekd_tf.evaluation import IJBEvaluation
    from ekd_tf.evaluation import LabelledEvaluation
    from ekd_tf.run import evaluators
    from ekd_tf.run import factory
    from ekd_tf.run.session import unreadable_of

    unreadable = unreadable_of(settings.model, settings.skip_corrupt)
    fprs = factory.numbers("fprs", settings.fprs)
    replicates = [
        settings.intervals * n for n in (_IDENTITY_REPLICATES, _FOLD_REPLICATES)
    ]
    evaluations = evaluators.make_evaluations(
        settings.eval_sets,
        None if settings.eval_sets or settings.ijb else _heldout(settings, unreadable),
        settings.seed,
        fprs,
        replicates,
        settings.worst,
        unreadable,
    )
    sources = [e.source for e in evaluations if isinstance(e, LabelledEvaluation)]
    for name, wanted in (
        ("identify", settings.identify),
        ("distractors", settings.distractors),
        ("calibrate_fpr", settings.calibrate_fpr),
    ):
        if wanted and len(sources) != 1:
            raise ValueError(
                f"`--{name}` needs one set of labelled images: give one as "
                f"--eval_sets=NAME:folder:DIR. Received: {len(sources)} of them"
            )
    if settings.identify or settings.distractors:
        others = None
        if settings.distractors:
            others = factory.make_source(settings.distractors, unreadable=unreadable)
            others = readable_images(others, unreadable)
        evaluations.append(
            IdentificationEvaluation(
                "identification", sources[0], others, seed=settings.seed
            )
        )
    for folder in settings.ijb:
        templates = readable_templates(read_template_set(folder), unreadable)
        evaluations.append(
            IJBEvaluation(templates, fprs, _switches(settings.ijb_switches))
        )
    return evaluations, sources[0] if len(sources) == 1 else None


def _linked(evaluations):
    """Returns labelled images of the first pair set, or None."""
    from ekd_tf.data import LinkedImages
    from ekd_tf.evaluation import PairSetEvaluation

    for evaluation in evaluations:
        if isinstance(evaluation, PairSetEvaluation):
            return LinkedImages(evaluation.pairs)
    return None


def _switches(names):
    from ekd_tf.metrics import ALL_SWITCHES

    if names == ("all",):
        return [switches.name for switches in ALL_SWITCHES]
    return list(names)


def _heldout(settings, unreadable):
    """Returns what the run of `--model` held out."""
    from ekd_tf.run.session import sources_of_run

    other = "--eval_sets=NAME:folder:DIR with identities it was not trained on"
    if not pathlib.Path(settings.model).is_dir():
        raise ValueError(
            f"{settings.model} is not a run, which would have held images out: give "
            f"{other}, or --eval_sets=NAME:pairs:FILE"
        )
    _, source = sources_of_run(settings.model, unreadable, settings.force_data)
    if source is None:
        raise ValueError(
            f"The run in {settings.model} held out no identities: give {other}"
        )
    return source


def _check_calibration(settings, source):
    """Raises `ValueError` where a calibration would fail after all evaluations."""
    from ekd_tf.evaluation import check_calibration

    if source is None:
        raise ValueError("`--calibrate_fpr` needs labelled images: give --eval_sets")
    if settings.calibrate_flip and not settings.flip:
        raise ValueError("`--calibrate_flip` needs mirror images: leave out --noflip")
    check_calibration(source, settings.calibrate_fpr)


def _calibrate(settings, student, source, arguments):
    """Writes thresholds for `--calibrate_fpr` to the cards of model and exports."""
    from ekd_tf.evaluation import calibrate
    from ekd_tf.evaluation import is_of_one_model
    from ekd_tf.evaluation import write_calibration
    from ekd_tf.export.card import exported_files
    from ekd_tf.export.card import refresh_readme
    from ekd_tf.run import evaluators

    def write(file, model):
        found = calibrate(
            model,
            source,
            settings.calibrate_fpr,
            settings.seed,
            settings.calibrate_flip,
        )
        card = write_calibration(file, found)
        refresh_readme(card)
        sys.stdout.write(f"\n{file}: {found.text()}\nWritten to {card}\n")
        sys.stdout.flush()

    arguments = {**arguments, "flip": settings.calibrate_flip}
    model_file = evaluators.file_of_model(settings.model)
    write(model_file, student)
    # What quantisation moves differs from file to file: each has its own threshold.
    for file in exported_files(model_file):
        try:
            exported = evaluators.make_source_embedder(
                str(file.parent if file.suffix == ".pb" else file), **arguments
            )
        except ValueError as error:
            logging.warning("%s is not calibrated: %s", file, error)
            continue
        if is_of_one_model(student, exported, source):
            write(file, exported)
        else:
            logging.warning(
                "%s is not calibrated: it was not exported of %s", file, model_file
            )


def run() -> None:
    """Entry point of the console script."""
    command.run(main, "ekd_tf.evaluate", EvaluateSettings, required=["model"])


if __name__ == "__main__":
    run()
