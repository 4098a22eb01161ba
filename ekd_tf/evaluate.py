"""Evaluates a model, and its gap to a teacher: `python -m ekd_tf.evaluate`."""

import pathlib
import sys

from absl import app
from absl import flags

from ekd_tf.onednn import use_onednn
from ekd_tf.unreadable import explain

MODEL = flags.DEFINE_string(
    "model",
    None,
    "A .keras, .onnx or .tflite file, a SavedModel's directory or the workdir of a "
    "run. FILE@-1..1 for a model of float input that takes pixels from -1 to 1.",
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
ON = flags.DEFINE_string(
    "on",
    None,
    "Images of identities no model was trained on, like --data of ekd_tf.train: every "
    "pair is scored. Default: those the run of --model held out, unless other sets "
    "are given.",
)
PAIRS = flags.DEFINE_list(
    "pairs", [], "Verification sets as NAME:PATH,... of .bin files."
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
    "identify", False, "Search a gallery of --on too: ranks, TPIR at FPIRs."
)
DISTRACTORS = flags.DEFINE_string(
    "distractors", None, "Images of other people that join that gallery, like --on."
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
    "Folder to keep embeddings in, so that a second evaluation costs no forward pass "
    "and an interrupted one goes on. Default: embeddings/ in --output.",
)
OUTPUT = flags.DEFINE_string(
    "output", None, "Folder for report.md, and a JSON file and pictures per set."
)
CALIBRATE_FPR = flags.DEFINE_float(
    "calibrate_fpr",
    None,
    "Find the threshold for this FPR on --on and write it to card.json beside --model.",
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


def main(argv):
    """Runs the evaluation the flags describe."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    try:
        evaluate()
    except ValueError as error:
        raise SystemExit(f"ekd_tf.evaluate: {explain(error, WAY_OUT)}") from None


def evaluate():
    """Loads the models and the images, and prints and writes the figures."""
    use_onednn()
    # TensorFlow takes seconds to import: `--help` must not wait for it.
    from ekd_tf import evaluators
    from ekd_tf.evaluation import Models
    from ekd_tf.training.progress import embedding_progress
    from ekd_tf.training.strategy import grow_gpu_memory

    grow_gpu_memory()
    output = pathlib.Path(OUTPUT.value) if OUTPUT.value else None
    folder = CACHE.value or (output and output / "embeddings")
    arguments = {
        "flip": FLIP.value,
        "batch_size": BATCH_SIZE.value,
        "cache": evaluators.make_cache(folder),
        "progress": embedding_progress(BATCH_SIZE.value),
    }
    evaluations, source = _evaluations()
    models = Models(
        evaluators.make_source_embedder(MODEL.value, **arguments),
        evaluators.make_source_embedder(TEACHER.value, **arguments),
        evaluators.make_source_embedder(BASELINE.value, **arguments),
    )
    texts = []
    for evaluation in evaluations:
        result = evaluation(models)
        texts.append(f"## {result.name}\n\n{result.report()}\n")
        sys.stdout.write("\n" + texts[-1])
        sys.stdout.flush()
        if output is not None:
            result.write(output)
    if output is not None:
        heading = [f"# {MODEL.value}\n"]
        heading += [
            f"{name}: {value}\n"
            for name, value in (
                ("Teacher", TEACHER.value),
                ("Baseline", BASELINE.value),
            )
            if value != "none"
        ]
        report = "\n".join(heading + texts)
        (output / "report.md").write_text(report, encoding="utf-8")
    if CALIBRATE_FPR.value is not None:
        _calibrate(models.student, source)


def _evaluations():
    """Returns what to run, and the labelled source among it or None."""
    from ekd_tf import evaluators
    from ekd_tf import factory
    from ekd_tf.data import read_template_set
    from ekd_tf.data import readable_images
    from ekd_tf.data import readable_pairs
    from ekd_tf.data import readable_templates
    from ekd_tf.evaluation import IdentificationEvaluation
    from ekd_tf.evaluation import IJBEvaluation
    from ekd_tf.evaluation import LabelledEvaluation
    from ekd_tf.evaluation import PairSetEvaluation
    from ekd_tf.session import unreadable_of

    unreadable = unreadable_of(MODEL.value, SKIP_CORRUPT.value)
    fprs = factory.numbers("fprs", FPRS.value)
    pair_sets = evaluators.make_pair_sets(PAIRS.value)
    source, evaluations = _source(bool(pair_sets or IJB.value), unreadable), []
    if source is not None:
        source = readable_images(source, unreadable)
        evaluations.append(
            LabelledEvaluation(
                "all_pairs" if ON.value else "heldout",
                source,
                fprs,
                SEED.value,
                INTERVALS.value * _IDENTITY_REPLICATES,
                WORST.value,
            )
        )
        evaluators.check_evaluation(
            evaluations[-1], "Give images that make more pairs as --on=..."
        )
    if IDENTIFY.value or DISTRACTORS.value:
        if source is None:
            raise ValueError("`--identify` needs labelled images: give --on")
        others = None
        if DISTRACTORS.value:
            others = factory.make_source(DISTRACTORS.value, unreadable=unreadable)
            others = readable_images(others, unreadable)
        evaluations.append(
            IdentificationEvaluation("identification", source, others, seed=SEED.value)
        )
    for pairs in pair_sets:
        replicates = INTERVALS.value * _FOLD_REPLICATES
        pairs = readable_pairs(pairs, unreadable)
        evaluations.append(
            PairSetEvaluation(pairs, fprs=fprs, seed=SEED.value, replicates=replicates)
        )
        evaluators.check_evaluation(evaluations[-1], "Give another set as --pairs=...")
    for folder in IJB.value:
        templates = readable_templates(read_template_set(folder), unreadable)
        evaluations.append(IJBEvaluation(templates, fprs, _switches()))
    return evaluations, source


def _switches():
    from ekd_tf.metrics import ALL_SWITCHES

    if IJB_SWITCHES.value == ["all"]:
        return [switches.name for switches in ALL_SWITCHES]
    return IJB_SWITCHES.value


def _source(may_be_none, unreadable):
    """Returns the images of `--on`, or what the run of `--model` held out."""
    from ekd_tf import factory
    from ekd_tf.session import sources_of_run

    if ON.value:
        return factory.make_source(ON.value, unreadable=unreadable)
    if may_be_none:
        return None
    if not pathlib.Path(MODEL.value).is_dir():
        raise ValueError(
            f"{MODEL.value} is not a run, which would have held images out: give "
            "--on=folder:DIR with identities it was not trained on, or --pairs"
        )
    _, source = sources_of_run(MODEL.value, unreadable, FORCE_DATA.value)
    if source is None:
        raise ValueError(
            f"The run in {MODEL.value} held out no identities: give --on=folder:DIR "
            "with identities it was not trained on"
        )
    return source


def _calibrate(student, source):
    """Writes the threshold for `--calibrate_fpr` to the model's card."""
    from ekd_tf.evaluation import calibrate
    from ekd_tf.evaluation import card_path
    from ekd_tf.evaluation import write_calibration

    if source is None:
        raise ValueError("`--calibrate_fpr` needs labelled images: give --on")
    found = calibrate(student, source, CALIBRATE_FPR.value, SEED.value)
    path = card_path(MODEL.value)
    write_calibration(path, found)
    sys.stdout.write(f"\n{found.text()}\nWritten to {path}\n")


def run():
    """Entry point of the console script."""
    flags.mark_flag_as_required("model")
    app.run(main)


if __name__ == "__main__":
    run()
