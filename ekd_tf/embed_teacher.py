"""Embeds a data set by a teacher once: `python -m ekd_tf.embed_teacher`.

Training with `--teacher=cache:DIR` then reads the rows and never runs the teacher. The
same command on the same `--out` goes on with a cache that was interrupted.
"""

import sys

from absl import app
from absl import flags
from absl import logging

from ekd_tf.run import command
from ekd_tf.run.onednn import use_onednn

TEACHER = flags.DEFINE_string(
    "teacher",
    None,
    "A .keras, .onnx or .tflite file, a SavedModel's directory or the workdir of a "
    "run. FILE@-1..1 for a model of float input that takes pixels from -1 to 1, "
    "FILE@bgr for one that takes blue first.",
)
DATA = flags.DEFINE_string(
    "data",
    None,
    "Images like --data of ekd_tf.train: all of them, whatever a run will hold out.",
)
OUT = flags.DEFINE_string("out", None, "Folder of the cache; made if missing.")
DTYPE = flags.DEFINE_string(
    "dtype", "float16", "Of the rows on disk: float16, half the bytes, or float32."
)
FLIP = flags.DEFINE_bool(
    "flip", True, "Embed mirror images too; training needs them unless --noflip."
)
SKIP_CORRUPT = flags.DEFINE_integer(
    "skip_corrupt", 0, "Unreadable images to replace before it stops.", 0
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images per forward pass.", 1)

WAY_OUT = "remove or replace what is damaged, or allow N with --skip_corrupt=N"


def main(argv):
    """Writes the cache the flags describe."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    try:
        embed_teacher()
    except (ValueError, OSError) as error:
        logging.debug("", exc_info=True)
        # Not at the top: it would load NumPy and TensorFlow for --help.
        from ekd_tf.data.unreadable import explain

        text = explain(error, WAY_OUT)
        raise SystemExit(f"ekd_tf.embed_teacher: {text}") from None


def embed_teacher():
    """Opens the teacher and the images and writes what is missing of the cache."""
    use_onednn()
    # TensorFlow takes seconds to import: `--help` must not wait for it.
    from ekd_tf.data.unreadable import Unreadable
    from ekd_tf.embedders import CacheWriter
    from ekd_tf.run import evaluators
    from ekd_tf.run import factory
    from ekd_tf.run.progress import embedding_progress
    from ekd_tf.training.strategy import grow_gpu_memory

    grow_gpu_memory()
    writer = CacheWriter(OUT.value, DTYPE.value, TEACHER.value, DATA.value)
    unreadable = Unreadable(SKIP_CORRUPT.value)
    source = factory.make_source(DATA.value, OUT.value, unreadable)
    embedder = evaluators.make_source_embedder(
        TEACHER.value,
        flip=FLIP.value,
        batch_size=BATCH_SIZE.value,
        cache=writer,
        progress=embedding_progress(BATCH_SIZE.value),
        unreadable=unreadable,
    )
    if embedder is None:
        raise ValueError("`--teacher` cannot be none.")
    line = evaluators.check_range_of_pixels(
        TEACHER.value,
        embedder,
        source,
        embedder.input_size,
        unreadable=unreadable,
    )
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
    rows = embedder.views(source)
    centres = writer.finish(source)
    sys.stdout.write(
        f"{OUT.value}: {len(rows):,} images x {rows.shape[1]} views x "
        f"{rows.shape[2]} dimensions, {rows.dtype}, {rows.nbytes / 1e6:,.1f} MB; class "
        f"centres of {len(centres):,} identities. Train with "
        f"--teacher=cache:{OUT.value}\n"
    )


def run():
    """Entry point of the console script."""
    command.run(main, "ekd_tf.embed_teacher", ["teacher", "data", "out"], resumes=True)


if __name__ == "__main__":
    run()
