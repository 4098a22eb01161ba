"""Evaluates a model, and its gap to a teacher: `python -m ekd_tf.evaluate`."""

import pathlib
import sys

from absl import app
from absl import flags
from absl import logging

from ekd_tf.run import command
from ekd_tf.run.effects import Needs
from ekd_tf.run.onednn import use_onednn

MODEL = flags.DEFINE_string(
    "model",
    None,
    "A .keras, .onnx or .tflite file, a SavedModel's directory or the workdir of a "
    "run. FILE@-1..1 for a model of float input that takes pixels from -1 to 1, "
    "FILE@bgr for one that takes blue first.",
)
TEACHER = flags.DEFINE_string(
    "teacher", "none", "The same for the teacher, or none: adds the gap."
)
BASELINE = flags.DEFINE_string(
    "baseline",
    "none",
    "The same for a student trained without the teacher, or none: adds the share of "
    "the gap that is closed.",
)
EVAL_SETS = flags.DEFINE_multi_string(
    "eval_sets",
    [],
    "NAME:KIND:PATH of a set to evaluate on, as in ekd_tf.train; may be repeated. "
    "NAME:pairs:FILE is a verification set, NAME:allpairs:FILE every pair of its "
    "images; KIND:PATH may be images like --data of ekd_tf.train, of identities no "
    "model was trained on: every pair counts. Default: the identities that the run of "
    "--model held out, unless --ijb is given.",
)
IJB = flags.DEFINE_list(
    "ijb",
    [],
    "Folders of IJB-B, IJB-C or sets laid out as they are (meta/, loose_crop/).",
)
IJB_SWITCHES = flags.DEFINE_list(
    "ijb_switches",
    "N1D1F1,N0D0F0",
    "How images are pooled: N1 keep the norm, D1 multiply by the detector's score, F1 "
    "add the mirror image. insightface reports N1D1F1, TFace N0D0F0. Or all.",
)
IDENTIFY = flags.DEFINE_bool(
    "identify", False, "Search a gallery of the images too: ranks, TPIR at FPIRs."
)
DISTRACTORS = flags.DEFINE_string(
    "distractors", None, "Images of other people that join that gallery, like --data."
)
FPRS = flags.DEFINE_list("fprs", "1e-1,1e-2,1e-3,1e-4", "Target FPRs.")
FLIP = flags.DEFINE_bool("flip", True, "Add the embedding of the mirror image.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images per forward pass.", 1)
SEED = flags.DEFINE_integer("seed", 0, "Of drawn pairs and of resampling.", 0)
INTERVALS = flags.DEFINE_bool(
    "intervals", True, "Give bootstrap 95 % intervals over identities or folds."
)
WORST = flags.DEFINE_integer(
    "worst", 10, "Critical pairs of each kind to name and draw.", 0
)
CACHE = flags.DEFINE_string(
    "cache",
    None,
    "Folder to keep embeddings in, so that a second evaluation embeds a sample alone "
    "and an interrupted one goes on. Default: embeddings/ in --output.",
)
OUTPUT = flags.DEFINE_string(
    "output", None, "Folder for report.md, and a JSON file and pictures per set."
)
CALIBRATE_FPR = flags.DEFINE_float(
    "calibrate_fpr",
    None,
    "Find the threshold for this FPR on the images of --eval_sets, of one image "
    "without its mirror image, for --model and for what was exported of it, and write "
    "each to card.json beside.",
)
CALIBRATE_FLIP = flags.DEFINE_bool(
    "calibrate_flip",
    False,
    "Calibrate embeddings to which that of the mirror image is added, for programs "
    "that add it.",
)
SKIP_CORRUPT = flags.DEFINE_integer(
    "skip_corrupt",
    None,
    "Unreadable images to leave out before it stops; the report lists them. Default: "
    "as many as the run of --model allowed, or none.",
    0,
)
FORCE_DATA = flags.DEFINE_bool(
    "force_data",
    False,
    "Evaluate on what the run of --model held out though its data has changed since.",
)

WAY_OUT = "remove or replace what is damaged, or allow N with --skip_corrupt=N"
# Resamples behind an interval: of identities, each over all pairs, and of folds.
_IDENTITY_REPLICATES = 200
_FOLD_REPLICATES = 1000

_EFFECTS = (
    Needs("ijb_switches", "--ijb", lambda v: bool(v["ijb"])),
    Needs("worst", "--teacher", lambda v: v["teacher"] != "none"),
)


def main(argv):
    """Runs the evaluation the flags describe."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    try:
        command.check_effects(sys.modules[__name__], _EFFECTS)
        evaluate()
    except (OSError, ValueError) as error:
        # Not at the top: it would load NumPy and TensorFlow for --help.
        from ekd_tf.data.unreadable import explain

        raise SystemExit(f"ekd_tf.evaluate: {explain(error, WAY_OUT)}") from None


def evaluate():
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
    output = make_folder("output", OUTPUT.value) if OUTPUT.value else None
    if CALIBRATE_FPR.value is not None:
        card = evaluators.file_of_model(MODEL.value).with_name(CARD_FILE)
        check_file("calibrate_fpr", card)
    folder = CACHE.value or (output and output / "embeddings")
    arguments = {
        "flip": FLIP.value,
        "batch_size": BATCH_SIZE.value,
        "cache": evaluators.make_cache(folder),
        "progress": embedding_progress(BATCH_SIZE.value),
    }
    evaluations, source = _evaluations()
    if CALIBRATE_FPR.value is not None:
        _check_calibration(source)
    models = Models(
        evaluators.make_source_embedder(MODEL.value, **arguments),
        evaluators.make_source_embedder(TEACHER.value, **arguments),
        evaluators.make_source_embedder(BASELINE.value, **arguments),
    )
    sample = source or _linked(evaluations)
    for role, spec in (("teacher", TEACHER.value), ("model", MODEL.value)):
        embedder = models.teacher if role == "teacher" else models.student
        asked = role == "teacher" or evaluators.takes_any_range(spec)
        if sample is not None and embedder is not None and asked:
            line = evaluators.check_range_of_pixels(
                spec, embedder, sample, embedder.input_size, SEED.value, role=role
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
        write_text(output / "report.md", "\n".join([*_heading(source), *sections]))
    if CALIBRATE_FPR.value is not None:
        _calibrate(models.student, source, arguments)


def _heading(source):
    """Returns what a report says of its models, images and making."""
    from ekd_tf.run.provenance import provenance

    made = provenance(["python", "-m", "ekd_tf.evaluate", *sys.argv[1:]])
    images = EVAL_SETS.value or ([source.name] if source is not None else [])
    images = [*images, *([DISTRACTORS.value] if DISTRACTORS.value else [])]
    facts = {
        "Teacher": TEACHER.value,
        "Baseline": BASELINE.value,
        "Data": "; ".join([*images, *IJB.value]),
        "Command": f"`{made['command']}`",
        "Date": made["date"],
        "ekd_tf": made["ekd_tf"],
    }
    return [f"# {MODEL.value}\n"] + [
        f"{name}: {value}\n" for name, value in facts.items() if value != "none"
    ]


def _evaluations():
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

    unreadable = unreadable_of(MODEL.value, SKIP_CORRUPT.value)
    fprs = factory.numbers("fprs", FPRS.value)
    replicates = [INTERVALS.value * n for n in (_IDENTITY_REPLICATES, _FOLD_REPLICATES)]
    evaluations = evaluators.make_evaluations(
        EVAL_SETS.value,
        None if EVAL_SETS.value or IJB.value else _heldout(unreadable),
        SEED.value,
        fprs,
        replicates,
        WORST.value,
        unreadable,
    )
    sources = [e.source for e in evaluations if isinstance(e, LabelledEvaluation)]
    for name, wanted in (
        ("identify", IDENTIFY.value),
        ("distractors", DISTRACTORS.value),
        ("calibrate_fpr", CALIBRATE_FPR.value),
    ):
        if wanted and len(sources) != 1:
            raise ValueError(
                f"`--{name}` needs one set of labelled images: give one as "
                f"--eval_sets=NAME:folder:DIR. Received: {len(sources)} of them"
            )
    if IDENTIFY.value or DISTRACTORS.value:
        others = None
        if DISTRACTORS.value:
            others = factory.make_source(DISTRACTORS.value, unreadable=unreadable)
            others = readable_images(others, unreadable)
        evaluations.append(
            IdentificationEvaluation(
                "identification", sources[0], others, seed=SEED.value
            )
        )
    for folder in IJB.value:
        templates = readable_templates(read_template_set(folder), unreadable)
        evaluations.append(IJBEvaluation(templates, fprs, _switches()))
    return evaluations, sources[0] if len(sources) == 1 else None


def _linked(evaluations):
    """Returns labelled images of the first pair set, or None."""
    from ekd_tf.data import LinkedImages
    from ekd_tf.evaluation import PairSetEvaluation

    for evaluation in evaluations:
        if isinstance(evaluation, PairSetEvaluation):
            return LinkedImages(evaluation.pairs)
    return None


def _switches():
    from ekd_tf.metrics import ALL_SWITCHES

    if IJB_SWITCHES.value == ["all"]:
        return [switches.name for switches in ALL_SWITCHES]
    return IJB_SWITCHES.value


def _heldout(unreadable):
    """Returns what the run of `--model` held out."""
    from ekd_tf.run.session import sources_of_run

    other = "--eval_sets=NAME:folder:DIR with identities it was not trained on"
    if not pathlib.Path(MODEL.value).is_dir():
        raise ValueError(
            f"{MODEL.value} is not a run, which would have held images out: give "
            f"{other}, or --eval_sets=NAME:pairs:FILE"
        )
    _, source = sources_of_run(MODEL.value, unreadable, FORCE_DATA.value)
    if source is None:
        raise ValueError(
            f"The run in {MODEL.value} held out no identities: give {other}"
        )
    return source


def _check_calibration(source):
    """Raises `ValueError` where a calibration would fail after all evaluations."""
    from ekd_tf.evaluation import check_calibration

    if source is None:
        raise ValueError("`--calibrate_fpr` needs labelled images: give --eval_sets")
    if CALIBRATE_FLIP.value and not FLIP.value:
        raise ValueError("`--calibrate_flip` needs mirror images: leave out --noflip")
    check_calibration(source, CALIBRATE_FPR.value)


def _calibrate(student, source, arguments):
    """Writes thresholds for `--calibrate_fpr` to the cards of model and exports."""
    from ekd_tf.evaluation import calibrate
    from ekd_tf.evaluation import is_of_one_model
    from ekd_tf.evaluation import write_calibration
    from ekd_tf.export.card import exported_files
    from ekd_tf.export.card import refresh_readme
    from ekd_tf.run import evaluators

    def write(file, model):
        found = calibrate(
            model, source, CALIBRATE_FPR.value, SEED.value, CALIBRATE_FLIP.value
        )
        card = write_calibration(file, found)
        refresh_readme(card)
        sys.stdout.write(f"\n{file}: {found.text()}\nWritten to {card}\n")
        sys.stdout.flush()

    arguments = {**arguments, "flip": CALIBRATE_FLIP.value}
    model_file = evaluators.file_of_model(MODEL.value)
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


def run():
    """Entry point of the console script."""
    command.run(main, "ekd_tf.evaluate", ["model"])


if __name__ == "__main__":
    run()
