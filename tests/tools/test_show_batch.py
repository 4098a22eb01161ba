"""The contact sheet shows the rows, their pixels and which are pairs."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from ekd_tf.data import BatchSampler
from ekd_tf.data import make_pipeline
from ekd_tf.data.unreadable import UnreadableError
from ekd_tf.run.config import TrainConfig
from ekd_tf.run.factory import make_source

DATA = "synthetic:identities=8,images=4,size=32"


@pytest.fixture(scope="module")
def tool(load_tool):
    return load_tool("show_batch")


@pytest.fixture
def batch():
    return {
        "image": np.full((5, 32, 32, 3), 10, np.uint8)
        + np.uint8(40) * np.arange(5, dtype=np.uint8)[:, None, None, None],
        "label": np.array([3, 7, 7, 2, 7], np.int32),
        "in_margin": np.array([1, 0, 0, 1, 1], np.float32),
        "image_id": np.arange(5, dtype=np.int32),
        "flipped": np.array([False, True, False, False, False]),
    }


def pixel(sheet, x, y):
    return sheet.getpixel((x, y))


def test_pairs_are_counted_and_named(tool, batch):
    # Three images of identity 7: 3 pairs of the 10 there are.
    title = tool.describe(batch, 4, "faces")
    assert title == "step 4 of faces: 3 positive, 7 negative pairs"


def test_every_row_stands_in_its_place_with_its_frame(tool, batch):
    sheet = tool.draw_sheet(batch, "title", columns=2)
    # 32 pixels three times as large, in a frame of 4, over a caption of 13.
    cell, first = 3 * 32 + 8, 40
    second = first + cell + 13
    balanced = second + cell + 13 + 20
    places = {0: (0, first), 3: (cell, first), 4: (0, second)}
    places |= {1: (0, balanced), 2: (cell, balanced)}
    assert sheet.size == (480, balanced + cell + 13)
    blue, white = (0, 114, 178), (255, 255, 255)
    for row, (x, y) in places.items():
        gray = 10 + 40 * row
        for corner in (4, cell - 5):
            assert pixel(sheet, x + corner, y + corner) == (gray,) * 3
        frame = blue if batch["label"][row] == 7 else white
        assert pixel(sheet, x, y) == pixel(sheet, x + cell - 1, y + 50) == frame


def test_the_eighth_identity_has_a_broken_frame(tool):
    batch = {
        "image": np.zeros((16, 32, 32, 3), np.uint8),
        "label": np.repeat(np.arange(8), 2),
        "in_margin": np.zeros(16),
        "image_id": np.arange(16),
        "flipped": np.zeros(16, bool),
    }
    sheet = tool.draw_sheet(batch, "", columns=16)
    cell = 3 * 32 + 8
    first, eighth = 0, 14 * cell
    blue, white = (0, 114, 178), (255, 255, 255)
    assert pixel(sheet, first, 40) == pixel(sheet, eighth, 40) == blue
    assert pixel(sheet, first + cell // 2, 40) == blue
    assert pixel(sheet, eighth + cell // 2, 40) == white


def test_a_bad_image_is_named(tool, tmp_path):
    for k in range(4):
        path = tmp_path / "faces" / f"p{k // 2}" / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32)).save(path)
    path.write_bytes(b"no image")
    config = TrainConfig(
        data=f"folder:{tmp_path / 'faces'}",
        input_size=32,
        general_batch=4,
        balanced_identities=0,
    )
    with pytest.raises(UnreadableError, match=f"^cannot decode {path}: not an image"):
        tool.show(config, 0, tmp_path / "batch.png", columns=4)


def test_shows_the_batch_a_run_with_these_flags_sees(tool, tmp_path):
    config = TrainConfig(
        data=DATA,
        general_batch=2,
        balanced_identities=1,
        images_per_identity=2,
        input_size=32,
        seed=5,
    )
    path = tmp_path / "batch.png"
    tool.show(config, 3, path, columns=4)
    source = make_source(DATA)
    sampler = BatchSampler(source.labels, 2, 1, 2, seed=5)
    pipeline = make_pipeline(source, sampler, 32, seed=5, start_step=3, steps=1)
    batch = next(pipeline.dataset.as_numpy_iterator())
    row = np.flatnonzero(batch["in_margin"] == 1)[0]
    with Image.open(path) as sheet:
        shown = np.asarray(sheet)[44 : 44 + 96 : 3, 4 : 4 + 96 : 3]
    np.testing.assert_array_equal(shown, batch["image"][row])
    config = dataclasses.replace(config, augment="occlusion:1")
    tool.show(config, 3, path, columns=4)
    with Image.open(path) as sheet:
        covered = np.asarray(sheet)[44 : 44 + 96 : 3, 4 : 4 + 96 : 3]
    np.testing.assert_array_equal(covered[:17], shown[:17])
    assert len(np.unique(covered[22:, 5:27].reshape(-1, 3), axis=0)) == 1
