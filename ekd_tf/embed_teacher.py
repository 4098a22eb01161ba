"""Embeds a data set by a teacher once: `python -m ekd_tf.embed_teacher`.

Training with `--teacher=cache:DIR` then reads the rows and never runs the teacher. The
same command on the same `--output` continues a cache that was interrupted.
"""

from __future__ import annotations

import dataclasses
import sys

from ekd_tf.run import command
from ekd_tf.run.quiet import use_onednn
from ekd_tf.run.settings import setting


@dataclasses.dataclass(frozen=True)
class EmbedSettings:
    """The flags of the command."""

    teacher: str = setting(
        None,
        "A .keras, .onnx or .tflite file, a SavedModel's directory or the workdir of a "
        "run. FILE@-1..1 for a model of float input that takes pixels from -1 to 1, "
        "FILE@bgr for one that takes blue first.",
    )
    data: str = setting(
        None,
        "Images like --data of ekd_tf.train: all of them, whatever a run will hold "
        "out.",
    )
    output: str = setting(None, "Folder of the cache; made if missing.")
    dtype: str = setting(
        "float16", "Of the rows on disk: float16, half the bytes, or float32."
    )
    flip: bool = setting(
        True, "Embed mirror images too; training needs them unless --noflip."
    )
    skip_corrupt: int = setting(
        0, "Unreadable images to replace before it stops.", low=0
    )
    batch_size: int = setting(128, "Images per forward pass.", low=1)


def main(settings: EmbedSettings) -> None:
    """Opens the teacher and the images and writes what is missing of the cache."""
    use_onednn()
    # TensorFlow takes seconds to import: `--help` must not wait for it.
    from ekd_tf.data.unreadable import Unreadable
    from ekd_tf.embedders import CacheWriter
    from ekd_tf.embedders import open_embedder
    from ekd_tf.run import factory
    from ekd_tf.run.evaluators import check_range_of_pixels
    from ekd_tf.run.evaluators import source_embedder
    from ekd_tf.run.progress import embedding_progress
    from ekd_tf.training.strategy import grow_gpu_memory

    grow_gpu_memory()
    output, teacher = settings.output, settings.teacher
    writer = CacheWriter(output, settings.dtype, teacher, settings.data)
    unreadable = Unreadable(settings.skip_corrupt)
    source = factory.make_source(settings.data, output, unreadable)
    embedder = source_embedder(
        open_embedder(teacher),
        flip=settings.flip,
        batch_size=settings.batch_size,
        cache=writer,
        progress=embedding_progress(settings.batch_size),
        unreadable=unreadable,
    )
    line = check_range_of_pixels(
        teacher, embedder, source, embedder.input_size, unreadable=unreadable
    )
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
    rows = embedder.views(source)
    centres = writer.finish(source)
    sys.stdout.write(
        f"{output}: {len(rows):,} images x {rows.shape[1]} views x "
        f"{rows.shape[2]} dimensions, {rows.dtype}, {rows.nbytes / 1e6:,.1f} MB; class "
        f"centres of {len(centres):,} identities. Train with --teacher=cache:{output}\n"
    )


def run() -> None:
    """Entry point of the console script."""
    command.run(
        main,
        "ekd_tf.embed_teacher",
        EmbedSettings,
        required=["teacher", "data", "output"],
        resumes=True,
    )


if __name__ == "__main__":
    run()
