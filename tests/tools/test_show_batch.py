"""The contact sheet shows the rows, their pixels and which are pairs."""

import dataclasses

import numpy as np
import show_batch as tool
from pictures import write_people
from PIL import Image
from refusals import refused

from ekd_tf.data import BatchSampler
from ekd_tf.data import make_pipeline
from ekd_tf.data.unreadable import UnreadableError
from ekd_tf.run.config import TrainConfig
from ekd_tf.run.factory import make_source

DATA = "synthetic:identities=8,images=4,size=32"


def test_every_row_stands_in_its_place_with_its_frame():
    shades = 10 + 40 * np.arange(5, dtype=np.uint8)
    batch = {
        "image": np.tile(shades[:, None, None, None], (1, 32, 32, 3)),
        "label": np.array([3, 7, 2, 4, 7], np.int32),
        "in_margin": np.array([1, 0, 0, 1, 1], np.float32),
        "image_id": np.arange(5, dtype=np.int32),
        "flipped": np.array([False, True, False, False, False]),
    }
    # Of identity 7 there are two images.
    title = tool.describe(batch, 4, "faces")
    assert title == (
        "step 4 of faces: 3 general, 2 balanced rows; 1 positive, 9 negative pairs"
    )
    sheet = tool.draw_sheet(batch, title, columns=2)
    # 32 pixels three times as large, in a frame of 4, over a caption of 13.
    cell = 3 * 32 + 8
    assert sheet.size == (480, 20 + 3 * (cell + 13))
    blue, white = (0, 114, 178), (255, 255, 255)
    for place, row in enumerate((0, 3, 4, 2, 1)):
        x, y = place % 2 * cell, 20 + place // 2 * (cell + 13)
        for corner in (4, cell - 5):
            assert sheet.getpixel((x + corner, y + corner)) == (shades[row],) * 3
        for corner in ((x, y), (x + cell - 1, y + 50)):
            assert sheet.getpixel(corner) == (blue if row in (1, 4) else white)


def test_a_bad_image_is_named(tmp_path):
    faces = write_people(tmp_path / "faces", people=2, each=2, side=32)
    path = faces / "p1" / "1.png"
    path.write_bytes(b"no image")
    sizes = {"input_size": 32, "general_batch": 4, "balanced_identities": 0}
    config = TrainConfig(data=f"folder:{faces}", **sizes)
    settings = tool.ShowSettings(output=str(tmp_path / "batch.png"))
    words = f"^cannot decode {path}: not an image"
    refused(words, tool.main, settings, config, error=UnreadableError)


def test_shows_the_batch_a_run_with_these_flags_sees(tmp_path):
    rows = {"general_batch": 2, "balanced_identities": 1, "images_per_identity": 2}
    config = TrainConfig(data=DATA, input_size=32, seed=5, **rows)

    def shown(config):
        """Returns the first general image on the sheet."""
        tool.main(tool.ShowSettings(3, tmp_path / "batch.png", columns=4), config)
        with Image.open(tmp_path / "batch.png") as sheet:
            return np.asarray(sheet)[24 : 24 + 96 : 3, 4 : 4 + 96 : 3]

    source = make_source(DATA)
    sampler = BatchSampler(source.labels, 2, 1, 2, seed=5)
    pipeline = make_pipeline(source, sampler, 32, seed=5, start_step=3, steps=1)
    batch = next(pipeline.dataset.as_numpy_iterator())
    row = np.flatnonzero(batch["in_margin"] == 1)[0]
    plain = shown(config)
    np.testing.assert_array_equal(plain, batch["image"][row])
    covered = shown(dataclasses.replace(config, augment="occlusion:1"))
    np.testing.assert_array_equal(covered[:17], plain[:17])
    assert len(np.unique(covered[22:, 5:27].reshape(-1, 3), axis=0)) == 1
