import os

import numpy as np
import pytest
from PIL import Image

from ekd_tf.data import evaluation_batches
from ekd_tf.data.sources.listed import ListedImages
from ekd_tf.data.sources.listed import images_below
from ekd_tf.data.sources.listed import readable


@pytest.fixture
def folder(tmp_path):
    for k, name in enumerate(["b/2.png", "a/1.PNG", "3.png"]):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), 40 * k, np.uint8)).save(path)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_reads_in_the_order_given(folder):
    source = ListedImages("list", [folder / "3.png", folder / "b" / "2.png"])
    (images,) = evaluation_batches(source, [0, 1], 32, 8)
    np.testing.assert_array_equal(images[:, 0, 0, 0], [80, 0])
    assert source.describe(1) == str(folder / "b" / "2.png")
    assert (source.num_identities, source.labels.tolist()) == (1, [0, 0])


def test_finds_images_below_a_folder(folder):
    source = images_below(folder)
    names = [os.path.relpath(path, folder) for path in source.paths]
    assert names == ["3.png", "a/1.PNG", "b/2.png"]


def test_hidden_names_are_passed_over_and_links_followed_once(folder, caplog):
    (folder / "a" / "._1.jpg").write_bytes(b"\0\5\x16\7")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "4.jpg").write_bytes(b"")
    (folder / "a" / "Thumbs.db").write_bytes(b"\xd0\xcf")
    (folder / "a" / "up").symlink_to(folder)
    (folder / "itself").symlink_to("itself")
    (folder / "b" / "itself.jpg").symlink_to("itself.jpg")
    assert len(images_below(folder).paths) == 3
    assert "itself.jpg is left out: it is no file" in caplog.text


def test_images_that_do_not_decode_are_left_out_by_name(folder, caplog):
    (folder / "a" / "0.jpg").write_bytes(b"\xff\xd8\xff nonsense")
    whole = readable(images_below(folder))
    names = [os.path.relpath(path, folder) for path in whole.paths]
    assert names == ["3.png", "a/1.PNG", "b/2.png"]
    assert f"{folder}/a/0.jpg is left out: " in caplog.text


def test_names_need_not_be_utf_8(folder):
    odd = os.fsdecode(os.fsencode(folder) + b"/Ren\xe9.png")
    os.rename(folder / "3.png", odd)
    source = images_below(folder)
    assert source.paths[0] == odd and len(source.fingerprint) == 64


def test_fingerprint_changes_with_a_file(folder):
    before = images_below(folder).fingerprint
    assert images_below(folder).fingerprint == before
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(folder / "3.png")
    assert images_below(folder).fingerprint != before


def test_says_what_is_missing(folder):
    with pytest.raises(ValueError, match="1 of 2 images do not exist: .*none.jpg"):
        ListedImages("list", [folder / "3.png", folder / "none.jpg"])
    with pytest.raises(ValueError, match="is not a directory"):
        images_below(folder / "nowhere")
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no images"):
        images_below(folder / "empty")
