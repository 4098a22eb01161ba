"""Draws a batch as the student sees it: `tools/show_batch.py --output=batch.png`.

Takes the flags of `ekd_tf.train`, so a run's flagfile shows that run's batches:

    python tools/show_batch.py --flagfile=flags/demo_ekd.flags --augment=jpeg:0.5 \\
        --step=7 --output=batch.png

Rows of the margin loss come first, the balanced ones after them, by identity. An
identity with several rows in the batch has a coloured frame: those are the positive
pairs. Under each image stand its label, its number in the source and perhaps "flip".
"""

from __future__ import annotations

import collections
import dataclasses

import numpy as np
from PIL import Image
from PIL import ImageDraw

from ekd_tf.files.outputs import check_file
from ekd_tf.run import command
from ekd_tf.run.config import TrainConfig
from ekd_tf.run.settings import setting


@dataclasses.dataclass(frozen=True)
class ShowSettings:
    """The flags of the tool beside those of `ekd_tf.train`."""

    step: int = setting(0, "Which batch.", low=0)
    output: str = setting("batch.png", "PNG to write.")
    columns: int = setting(16, "Images side by side.", low=1)


# Okabe and Ito's palette.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
FRAME = 4
CAPTION = 13
HEADING = 20
LEAST_SIDE = 84


def draw_sheet(batch, title, columns):
    """Returns the contact sheet of a batch as a Pillow image."""
    size = batch["image"].shape[1]
    inner = size * -(-LEAST_SIDE // size)
    width, height = inner + 2 * FRAME, inner + 2 * FRAME + CAPTION
    # General rows as they are, then the balanced ones by identity.
    labels, balanced = batch["label"], batch["in_margin"] == 0
    order = np.lexsort((labels * balanced, balanced))
    lines = -(-len(order) // columns)
    sheet = Image.new(
        "RGB", (max(columns * width, 480), HEADING + lines * height), "white"
    )
    draw = ImageDraw.Draw(sheet)
    draw.text((FRAME, 4), title, "black")
    values, counts = np.unique(labels, return_counts=True)
    paired = values[counts > 1].tolist()
    for place, row in enumerate(order):
        x, y = place % columns * width, HEADING + place // columns * height
        if labels[row] in paired:
            color = COLORS[paired.index(labels[row]) % len(COLORS)]
            box = (x, y, x + width - 1, y + width - 1)
            draw.rectangle(box, outline=color, width=FRAME - 1)
        image = Image.fromarray(batch["image"][row])
        image = image.resize((inner, inner), Image.Resampling.NEAREST)
        sheet.paste(image, (x + FRAME, y + FRAME))
        flip = " flip" if batch["flipped"][row] else ""
        caption = f"{labels[row]} #{batch['image_id'][row]}{flip}"
        draw.text((x + FRAME, y + width - 1), caption, "black")
    return sheet


def describe(batch, step, name):
    """Returns the sheet's title: where the batch is from and what it holds."""
    counts = collections.Counter(batch["label"].tolist()).values()
    pairs = sum(count * (count - 1) // 2 for count in counts)
    rows, general = len(batch["label"]), int(batch["in_margin"].sum())
    negative = rows * (rows - 1) // 2 - pairs
    return (
        f"step {step} of {name}: {general} general, {rows - general} balanced rows; "
        f"{pairs} positive, {negative} negative pairs"
    )


def main(settings, config):
    """Draws the batch the flags describe."""
    import tensorflow as tf

    from ekd_tf.data import make_pipeline
    from ekd_tf.data.unreadable import Unreadable
    from ekd_tf.run import factory
    from ekd_tf.run.data import open_run_data

    config, step = config.completed(), settings.step
    check_file("output", settings.output)
    unreadable = Unreadable(config.skip_corrupt)
    source = open_run_data(config, None, unreadable)[0]
    sampler = factory.make_sampler(
        source,
        config.general_batch,
        config.balanced_identities,
        config.images_per_identity,
        config.seed,
    )
    pipeline = make_pipeline(
        source,
        sampler,
        config.input_size,
        seed=config.seed,
        start_step=step,
        steps=1,
        flip=config.flip,
        unreadable=unreadable,
        augmentation=factory.make_augmentation(config.augment, config.input_size),
    )
    try:
        batch = next(pipeline.dataset.as_numpy_iterator())
    except tf.errors.OpError:
        pipeline.check_images(step)
        raise
    title = describe(batch, step, source.name)
    draw_sheet(batch, title, settings.columns).save(settings.output, format="PNG")
    print(f"{settings.output}: {title}")


if __name__ == "__main__":
    command.run(main, "show_batch", ShowSettings, TrainConfig)
