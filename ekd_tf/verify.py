"""Tells whether two images show one person: `python -m ekd_tf.verify A.jpg B.jpg`.

Faces must be aligned as in training. With `--gallery DIR` the images given are looked
up among those of a folder instead.
"""

from __future__ import annotations

import dataclasses
import sys

from ekd_tf.files.user_text import one_line
from ekd_tf.run import command
from ekd_tf.run.settings import Needs
from ekd_tf.run.settings import setting

_GALLERY = Needs("--gallery", lambda settings: settings.gallery is not None)


@dataclasses.dataclass(frozen=True)
class VerifySettings:
    """The flags of the command."""

    model: str = setting(
        None,
        "A .keras, .onnx or .tflite file, a SavedModel's directory or a run's workdir.",
    )
    gallery: str | None = setting(
        None, "Folder whose images nearest to each image given are listed."
    )
    nearest: int = setting(5, "How many of the gallery to list.", low=1, needs=_GALLERY)
    threshold: float | None = setting(
        None,
        "Cosine above which two images count as one person. Default: the calibrated "
        "one of the model's card.json.",
        low=-1,
        high=1,
    )
    flip: bool | None = setting(
        None,
        "Add the embedding of the mirror image. Default: where the model was so "
        "calibrated and --threshold is not given.",
    )
    cache: str | None = setting(
        None, "Folder to keep the gallery's embeddings in.", needs=_GALLERY
    )


def main(settings: VerifySettings, images: list[str]) -> None:
    """Embeds the images and prints cosines and decisions."""
    if settings.gallery is None and len(images) != 2:
        raise ValueError(f"Give two images. Received: {' '.join(images) or 'none'}")
    if not images:
        raise ValueError("Give an image to look up in --gallery.")
    from ekd_tf import data
    from ekd_tf.data.unreadable import Unreadable
    from ekd_tf.embedders import file_of_model
    from ekd_tf.embedders import open_embedder
    from ekd_tf.evaluation import read_calibration
    from ekd_tf.run.evaluators import source_embedder

    model, calibration = open_embedder(settings.model), None
    if settings.threshold is None:
        calibration = read_calibration(file_of_model(settings.model))
    flip = settings.flip
    if flip is None:
        flip = calibration is not None and calibration.flip
    embedder = source_embedder(model, flip=flip, cache=settings.cache)
    decide = _decision(settings.threshold, calibration, flip)
    rows = embedder(data.ListedImages("the images given", images))
    if settings.gallery is None:
        sys.stdout.write(decide(float(rows[0] @ rows[1])) + "\n")
        return
    gallery: data.Source = data.images_below(settings.gallery)
    try:
        gallery_rows = embedder(gallery)
    except ValueError:
        # One bad image must not keep a photo collection from being searched.
        gallery = data.readable_images(gallery, Unreadable(len(gallery)))
        gallery_rows = embedder(gallery)
    for image, cosines in zip(images, rows @ gallery_rows.T):
        sys.stdout.write(f"{one_line(image)}\n")
        for place in (-cosines).argsort(kind="stable")[: settings.nearest]:
            answer = decide(float(cosines[place]))
            sys.stdout.write(f"  {one_line(gallery.describe(place))}  {answer}\n")


def _decision(threshold, calibration, flip):
    """Returns a function of a cosine that words the decision."""
    from ekd_tf.evaluation import format_fpr

    why = "as given by --threshold"
    if threshold is None and calibration is None:
        return lambda cosine: (
            f"cosine {cosine:.4f}: no decision, as no threshold is known: calibrate by "
            "ekd_tf.evaluate --calibrate_fpr=1e-3 or give --threshold"
        )
    if threshold is None:
        if calibration.flip != flip:
            raise ValueError(
                f"The threshold was calibrated for embeddings of {calibration.view}, "
                f"and `--flip` must say so. Received: flip={flip}. Leave it out, or "
                "give --threshold"
            )
        threshold, fpr = calibration.threshold, format_fpr(calibration.fpr)
        why = f"calibrated for FPR {fpr} on {calibration.source}"

    def decide(cosine):
        verdict = "one person" if cosine > threshold else "two people"
        return f"cosine {cosine:.4f}: {verdict} (threshold {threshold:.4f}, {why})"

    return decide


def run() -> None:
    """Entry point of the console script."""
    command.run(
        main,
        "ekd_tf.verify",
        VerifySettings,
        required=["model"],
        way_out="replace it, or leave it out",
        takes_arguments=True,
    )


if __name__ == "__main__":
    run()
