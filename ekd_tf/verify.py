"""Tells whether two images show one person: `python -m ekd_tf.verify A.jpg B.jpg`.

Faces must be aligned as in training. With `--gallery DIR` the images given are looked
up among those of a folder instead.
"""

import sys

from absl import app
from absl import flags

from ekd_tf.files.user_text import one_line
from ekd_tf.run import command
from ekd_tf.run.effects import Needs

MODEL = flags.DEFINE_string(
    "model",
    None,
    "A .keras, .onnx or .tflite file, a SavedModel's directory or a run's workdir.",
)
GALLERY = flags.DEFINE_string(
    "gallery", None, "Folder whose images nearest to each image given are listed."
)
NEAREST = flags.DEFINE_integer("nearest", 5, "How many of the gallery to list.", 1)
THRESHOLD = flags.DEFINE_float(
    "threshold",
    None,
    "Cosine above which two images count as one person. Default: the calibrated one "
    "of the model's card.json.",
)
FLIP = flags.DEFINE_bool(
    "flip",
    None,
    "Add the embedding of the mirror image. Default: where the model was so calibrated "
    "and --threshold is not given.",
)
CACHE = flags.DEFINE_string(
    "cache", None, "Folder to keep the gallery's embeddings in."
)

_EFFECTS = (Needs("nearest cache", "--gallery", lambda v: v["gallery"] is not None),)


def main(argv):
    """Runs the comparison the flags and arguments describe."""
    images = argv[1:]
    if GALLERY.value is None and len(images) != 2:
        raise app.UsageError(f"Give two images. Received: {' '.join(images) or 'none'}")
    if not images:
        raise app.UsageError("Give an image to look up in --gallery.")
    try:
        command.check_effects(sys.modules[__name__], _EFFECTS)
        verify(images)
    except (OSError, ValueError) as error:
        # Not at the top: it would load NumPy and TensorFlow for --help.
        from ekd_tf.data.unreadable import explain

        text = explain(error, "replace it, or leave it out")
        raise SystemExit(f"ekd_tf.verify: {text}") from None


def verify(images):
    """Embeds the images and prints cosines and decisions.

    Args:
        images: Paths.
    """
    # TensorFlow takes seconds to import: `--help` must not wait for it.
    import tensorflow as tf

    from ekd_tf.data import ListedImages
    from ekd_tf.data import images_below
    from ekd_tf.data.sources.listed import readable
    from ekd_tf.evaluation import read_calibration
    from ekd_tf.run import evaluators

    calibration = None
    if THRESHOLD.value is None:
        calibration = read_calibration(evaluators.file_of_model(MODEL.value))
    flip = FLIP.value
    if flip is None:
        flip = calibration is not None and calibration.flip
    embedder = evaluators.make_source_embedder(
        MODEL.value, flip=flip, cache=evaluators.make_cache(CACHE.value)
    )
    decide = _decision(calibration, flip)
    try:
        rows = embedder(ListedImages("the images given", images))
        if GALLERY.value is None:
            sys.stdout.write(decide(float(rows[0] @ rows[1])) + "\n")
            return
        gallery = images_below(GALLERY.value)
        try:
            of_gallery = embedder(gallery)
        except (ValueError, tf.errors.OpError):
            # One bad image must not keep a photo collection from being searched.
            gallery = readable(gallery)
            of_gallery = embedder(gallery)
        cosines = rows @ of_gallery.T
    except tf.errors.OpError as error:
        # The reader's words stand in the last line of what tf.data makes of them.
        raise ValueError(_last_words(error)) from error
    for image, of_image in zip(images, cosines):
        sys.stdout.write(f"{one_line(image)}\n")
        for place in (-of_image).argsort(kind="stable")[: NEAREST.value]:
            said = decide(float(of_image[place]))
            sys.stdout.write(f"  {one_line(gallery.paths[place])}  {said}\n")


def _decision(calibration, flip):
    """Returns a function of a cosine that words the decision."""
    from ekd_tf.evaluation import format_fpr

    threshold = THRESHOLD.value
    if threshold is not None:
        why = "as given by --threshold"
    elif calibration is None:
        return lambda cosine: (
            f"cosine {cosine:.4f}: no decision, as no threshold is known: calibrate by "
            "ekd_tf.evaluate --calibrate_fpr=1e-4 --eval_sets=... or give --threshold"
        )
    elif calibration.flip != flip:
        raise ValueError(
            f"The threshold was calibrated for embeddings of {calibration.view}, and "
            f"`--flip` must say so. Received: flip={flip}. Leave it out, or give "
            "--threshold"
        )
    else:
        threshold = calibration.threshold
        why = (
            f"calibrated for FPR {format_fpr(calibration.fpr)} on {calibration.source}"
        )

    def decide(cosine):
        verdict = "one person" if cosine > threshold else "two people"
        return f"cosine {cosine:.4f}: {verdict} (threshold {threshold:.4f}, {why})"

    return decide


def _last_words(error):
    lines = [
        line.strip() for line in str(error).splitlines() if "cannot decode" in line
    ]
    return lines[-1].partition("ValueError: ")[2] or lines[-1] if lines else str(error)


def run():
    """Entry point of the console script."""
    command.run(main, "ekd_tf.verify", ["model"])


if __name__ == "__main__":
    run()
