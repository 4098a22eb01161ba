"""Embeds a data set by a teacher once: `python -m ekd_tf.embed_teacher`.

Training with `--teacher=cache:DIR` then reads the rows and never runs the teacher. The
same command on the same `--output` continues a cache that was interrupted.
"""

from __future__ import annotations

import dataclasses
import re
import sys

from ekd_tf.run import command
from ekd_tf.run.settings import Needs
from ekd_tf.run.settings import setting

_DRAWN = Needs("--views", lambda settings: settings.views)


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
    views: int = setting(
        0,
        "Augmented views of every image to embed besides: a run then takes these views "
        "and gives student and teacher the same pixels.",
        low=0,
    )
    augment: str = setting(
        "",
        "What is done in them, like --augment of ekd_tf.train; pixels are of images of "
        "the teacher's size.",
        needs=_DRAWN,
    )
    seed: int = setting(0, "Seed of these views.", low=0, needs=_DRAWN)
    shard: str = setting(
        "1/1",
        "I/N: embed the I-th of N parts of the images, counted from 1. N processes, on "
        "any machines, write into one --output, which a run reads as one cache.",
    )
    skip_corrupt: int = setting(
        0, "Unreadable images to replace before it stops.", low=0
    )
    batch_size: int = setting(128, "Images per forward pass.", low=1)


def main(settings: EmbedSettings) -> None:
    """Opens the teacher and the images and writes what is missing of the cache."""
    from ekd_tf.data import DrawnViews
    from ekd_tf.data.unreadable import Unreadable
    from ekd_tf.embedders import CacheWriter
    from ekd_tf.embedders import describe_cache
    from ekd_tf.embedders import open_embedder
    from ekd_tf.files.outputs import check_outside
    from ekd_tf.run import factory
    from ekd_tf.run.evaluators import check_range_of_pixels
    from ekd_tf.run.evaluators import source_embedder
    from ekd_tf.run.progress import begin_line
    from ekd_tf.run.teacher import write_cache
    from ekd_tf.training.strategy import grow_gpu_memory

    grow_gpu_memory()
    output, teacher = settings.output, settings.teacher
    shard = _shard(settings.shard)
    unreadable = Unreadable(settings.skip_corrupt)
    for folder in factory.folders_of(settings.data):
        check_outside("output", output, "data", folder)
    source = factory.make_source(settings.data, output, unreadable)
    model = open_embedder(teacher)
    augmentation = factory.make_augmentation(settings.augment, model.input_size)
    drawn = None
    if settings.views:
        drawn = DrawnViews(settings.views, settings.seed, settings.flip)
    note = describe_cache(
        model,
        source,
        teacher,
        settings.data,
        settings.dtype,
        settings.flip,
        drawn,
        augmentation,
        settings.skip_corrupt,
    )
    writer = CacheWriter(output, note, shard)
    line = check_range_of_pixels(
        teacher,
        source_embedder(model, unreadable=unreadable),
        source,
        model.input_size,
        unreadable=unreadable,
    )
    sys.stdout.write(
        f"{model.name}: {model.input_size} px, {model.embedding_dim} dimensions, run "
        f"by {model.runtime}. {line}\n"
    )
    sys.stdout.flush()
    rows = write_cache(
        writer,
        model,
        source,
        settings.flip,
        drawn,
        augmentation,
        settings.batch_size,
        unreadable,
        begin_line,
    )
    train = f"Train with --teacher=cache:{output}"
    if shard[1] > 1:
        train += f" once all {shard[1]} shards are there"
    sys.stdout.write(
        f"{writer.folder}: {len(rows):,} images x {rows.shape[1]} views x "
        f"{rows.shape[2]} dimensions, {rows.dtype}, {rows.nbytes / 1e6:,.1f} MB. "
        f"{train}\n"
    )


def _shard(text):
    """Reads `2/4` as (2, 4)."""
    match = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", text)
    if not match or int(match[1]) > int(match[2]):
        raise ValueError(
            "`--shard` must be I/N with I from 1 to N, such as 2/4 for the second of "
            f"four parts. Received: --shard={text}"
        )
    return int(match[1]), int(match[2])


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
