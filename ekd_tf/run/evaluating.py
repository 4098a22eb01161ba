"""One evaluation from its settings: `evaluate_model`, read from top to bottom."""

from __future__ import annotations

import pathlib
import sys
from typing import Any

from absl import logging

from ekd_tf import data
from ekd_tf import embedders
from ekd_tf import page
from ekd_tf.checks import check_range
from ekd_tf.evaluation import IdentificationEvaluation
from ekd_tf.evaluation import IJBEvaluation
from ekd_tf.evaluation import LabelledEvaluation
from ekd_tf.evaluation import Models
from ekd_tf.evaluation import PairSetEvaluation
from ekd_tf.evaluation import calibrate
from ekd_tf.evaluation import check_calibration
from ekd_tf.evaluation import is_of_one_model
from ekd_tf.evaluation import read_calibration
from ekd_tf.evaluation import write_calibration
from ekd_tf.evaluation.calibration import CARD_FILE
from ekd_tf.export.card import exported_files
from ekd_tf.export.card import refresh_readme
from ekd_tf.files.atomic import write_text
from ekd_tf.files.outputs import check_file
from ekd_tf.files.outputs import make_folder
from ekd_tf.metrics import ALL_SWITCHES
from ekd_tf.run import evaluators
from ekd_tf.run import factory
from ekd_tf.run.data import sources_of_run
from ekd_tf.run.data import unreadable_of
from ekd_tf.run.progress import begin_line
from ekd_tf.run.provenance import provenance
from ekd_tf.run.settings import number
from ekd_tf.training.strategy import grow_gpu_memory

# Resamples behind an interval: of identities, each over all pairs, and of folds.
_REPLICATES = (200, 1000)


def evaluate_model(settings: Any) -> None:
    """Prints and writes figures by `EvaluateSettings`, and calibrates if asked."""
    grow_gpu_memory()
    output = make_folder("output", settings.output) if settings.output else None
    folder = settings.cache or (output and output / "embeddings")
    arguments: dict[str, Any] = {
        "flip": settings.flip,
        "batch_size": settings.batch_size,
        "cache": folder,
        "progress": begin_line,
    }
    evaluations, source = _evaluations(settings)
    attributes = page.Attributes(settings.slices) if settings.slices else None
    if attributes is not None:
        images = [getattr(evaluation, "source", None) for evaluation in evaluations]
        attributes.check([each for each in images if each is not None])
    if settings.calibrate_fpr is not None:
        # What would fail after all evaluations.
        card = embedders.file_of_model(settings.model).with_name(CARD_FILE)
        check_file("calibrate_fpr", card)
        if settings.calibrate_flip and not settings.flip:
            raise ValueError(
                "`--calibrate_flip` needs mirror images: leave out --noflip"
            )
        check_calibration(source, settings.calibrate_fpr)
    models = Models(
        evaluators.source_embedder(
            embedders.open_embedder(settings.model), **arguments
        ),
        evaluators.make_source_embedder(settings.teacher, **arguments),
        evaluators.make_source_embedder(settings.baseline, **arguments),
    )
    _say_ranges(settings, models, evaluations, source)
    facts = _facts(settings, source)
    results = []
    for evaluation in evaluations:
        result = evaluation(models)
        results.append(result)
        _say(f"\n## {result.name}\n\n{result.report()}")
        if output is not None:
            result.write(output)
    if output is not None:
        shown = {**facts, "Command": f"`{facts['Command']}`"}
        lines = [f"# {settings.model}\n", *(f"{k}: {v}\n" for k, v in shown.items())]
        lines += [result.section() for result in results]
        write_text(output / "report.md", "\n".join(lines))
    if settings.calibrate_fpr is not None:
        _calibrate(settings, models.student, source, arguments)
    if output is not None:
        content = _page(settings, models, evaluations, results, attributes)
        path = page.write_page(output, settings.model, facts, content)
        _say(f"\nWritten to {path}")


def _say(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _evaluations(settings):
    """Returns what to run, and the one labelled source among it or None."""
    unreadable = unreadable_of(settings.model, settings.skip_corrupt)
    fprs = [number("fprs", text) for text in settings.fprs]
    if not fprs:
        raise ValueError("Give `--fprs` one FPR or more, such as --fprs=1e-2,1e-3")
    for fpr in fprs:
        check_range("--fprs", fpr, low=0, high=1, low_open=True, high_open=True)
    heldout = None
    if not settings.eval_sets and not settings.ijb:
        heldout = _heldout(settings, unreadable)
    evaluations = evaluators.make_evaluations(
        settings.eval_sets,
        heldout,
        settings.seed,
        fprs,
        [settings.intervals * count for count in _REPLICATES],
        settings.worst,
        unreadable,
    )
    sources = [e.source for e in evaluations if isinstance(e, LabelledEvaluation)]
    for name in ("identify", "distractors", "calibrate_fpr"):
        if getattr(settings, name) and len(sources) != 1:
            raise ValueError(
                f"`--{name}` needs one set of labelled images: give one as "
                f"--eval_sets=NAME:folder:DIR. Received: {len(sources)} of them"
            )
    if settings.identify or settings.distractors:
        others = None
        if settings.distractors:
            others = factory.make_source(settings.distractors, None, unreadable)
            others = data.readable_images(others, unreadable)
        evaluations.append(
            IdentificationEvaluation(
                "identification", sources[0], others, seed=settings.seed
            )
        )
    switches = list(settings.ijb_switches)
    if switches == ["all"]:
        switches = list(ALL_SWITCHES)
    for folder in settings.ijb:
        templates = data.readable_templates(data.read_template_set(folder), unreadable)
        evaluations.append(IJBEvaluation(templates, fprs, switches))
    names = [evaluation.name for evaluation in evaluations]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"Two sets are called {name}, whose reports would be one file: give "
                "one of them another name, or evaluate it by itself"
            )
    return evaluations, sources[0] if len(sources) == 1 else None


def _heldout(settings, unreadable):
    """Returns what the run of `--model` held out."""
    other = "--eval_sets=NAME:folder:DIR with identities it was not trained on"
    if not pathlib.Path(settings.model).is_dir():
        raise ValueError(
            f"There is no run in {settings.model}, whose held-out images these would "
            f"be: give {other}, or --eval_sets=NAME:pairs:FILE"
        )
    _, source = sources_of_run(settings.model, unreadable, settings.force_data)
    if source is None:
        raise ValueError(
            f"The run in {settings.model} held out no identities: give {other}"
        )
    return source


def _say_ranges(settings, models, evaluations, source):
    """Prints the AUCs on a sample, where a model's range of pixels may be wrong."""
    for evaluation in evaluations:
        if source is None and isinstance(evaluation, PairSetEvaluation):
            source = data.LinkedImages(evaluation.pairs)
    for role, embedder in (("teacher", models.teacher), ("model", models.student)):
        spec = getattr(settings, role)
        asked = role == "teacher" or embedders.in_other_ranges(spec)
        if source is not None and embedder is not None and asked:
            size, seed = embedder.input_size, settings.seed
            _say(
                evaluators.check_range_of_pixels(
                    spec, embedder, source, size, seed, role=role
                )
            )


def _facts(settings, source):
    """Returns what a report says of its models, images and making."""
    made = provenance("-m", "ekd_tf.evaluate")
    images = list(settings.eval_sets) or ([source.name] if source is not None else [])
    images += [settings.distractors] if settings.distractors else []
    facts = {
        "Teacher": settings.teacher,
        "Baseline": settings.baseline,
        "Data": "; ".join([*images, *settings.ijb]),
        "Command": made["command"],
        "Date": made["date"],
        "ekd_tf": made["ekd_tf"],
    }
    return {name: value for name, value in facts.items() if value != "none"}


def _page(settings, models, evaluations, results, attributes):
    """Returns what the page shows."""
    model_file = embedders.file_of_model(settings.model)
    try:
        calibration = read_calibration(model_file)
    except ValueError as error:
        logging.warning("The page has no calibrated threshold: %s", error)
        calibration = None
    most = page.image_bytes(len(evaluations)) if settings.report_images else 0
    sets = [
        page.set_section(
            evaluation,
            models,
            result,
            attributes,
            calibration,
            most,
        )
        for evaluation, result in zip(evaluations, results)
    ]
    return {"sets": sets, "deployment": page.deployment(model_file)}


def _calibrate(settings, student, source, arguments):
    """Writes thresholds for `--calibrate_fpr` to the cards of model and exports."""
    fpr, seed, flip = settings.calibrate_fpr, settings.seed, settings.calibrate_flip

    def write(file, model):
        calibration = calibrate(model, source, fpr, seed, flip)
        card = write_calibration(file, calibration)
        refresh_readme(card)
        _say(f"\n{file}: {calibration.text()}\nWritten to {card}")

    arguments = {**arguments, "flip": flip}
    model_file = embedders.file_of_model(settings.model)
    write(model_file, student)
    # What quantisation moves differs from file to file: each has its own threshold.
    for file in exported_files(model_file):
        path = file.parent if file.suffix == ".pb" else file
        try:
            exported = evaluators.make_source_embedder(str(path), **arguments)
        except ValueError as error:
            logging.warning("%s is not calibrated: %s", file, error)
            continue
        if is_of_one_model(student, exported, source):
            write(file, exported)
        else:
            logging.warning(
                "%s is not calibrated: it was not exported of %s", file, model_file
            )
