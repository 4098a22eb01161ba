"""Evaluates a model, and its gap to a teacher: `python -m ekd_tf.evaluate`."""

from __future__ import annotations

import dataclasses

from ekd_tf.run import command
from ekd_tf.run.settings import Needs
from ekd_tf.run.settings import setting

_OUTPUT = Needs("--output", lambda settings: settings.output)


@dataclasses.dataclass(frozen=True)
class EvaluateSettings:
    """The flags of the command."""

    model: str = setting(
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
        None,
        "Folder for report.html, one page for any browser, report.md, and a JSON file "
        "and pictures per set.",
    )
    slices: str | None = setting(
        None,
        "CSV file of attributes by which report.html slices the images: a header, its "
        "first column `identity` or `image` (ends of paths), then a line for each.",
        needs=_OUTPUT,
    )
    report_images: bool = setting(
        True, "Show pictures of the set's pairs in report.html.", needs=_OUTPUT
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
        needs=Needs("--calibrate_fpr", lambda s: s.calibrate_fpr is not None),
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
    """Evaluates, and calibrates if asked."""
    from ekd_tf.run.evaluating import evaluate_model

    evaluate_model(settings)


def run() -> None:
    """Entry point of the console script."""
    command.run(
        main,
        "ekd_tf.evaluate",
        EvaluateSettings,
        required=["model"],
        resumes=lambda settings: (
            bool(settings.cache or settings.output)
            or "With --output or --cache the same command would continue it."
        ),
    )


if __name__ == "__main__":
    run()
