"""Image files: one directory per identity, and lists without identities."""

import os

import numpy as np
import pytest
from PIL import Image

from ekd_tf.data import FolderFaces
from ekd_tf.data import ListedImages
from ekd_tf.data import evaluation_batches
from ekd_tf.data import images_below


def put(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def tree(tmp_path):
    """Three identities whose file names sort differently from their creation."""
    for name in ("zoe/b.jpg", "zoe/a.PNG", "anna/1.jpeg", "mia/x.webp", "mia/w.Bmp"):
        put(tmp_path / name, name.encode())
    return tmp_path


def test_identities_and_images_are_sorted_by_name(tree, warnings_logged):
    faces = FolderFaces(tree)
    assert faces.identity_names() == ["anna", "mia", "zoe"]
    np.testing.assert_array_equal(faces.labels, [0, 1, 1, 2, 2])
    assert faces.labels.dtype == np.int32
    assert (len(faces), faces.num_identities, faces.encoded) == (5, 3, True)
    order = ["anna/1.jpeg", "mia/w.Bmp", "mia/x.webp", "zoe/a.PNG", "zoe/b.jpg"]
    assert [faces.describe(i) for i in range(5)] == [str(tree / n) for n in order]
    assert faces.read(np.array([4, 0, 4])) == [b"zoe/b.jpg", b"anna/1.jpeg"] + [
        b"zoe/b.jpg"
    ]
    assert (faces.name, warnings_logged) == (str(tree), [])


def test_scanning_opens_no_image(tree):
    (tree / "mia" / "x.webp").chmod(0)
    (tree / "mia" / "gone.jpg").symlink_to(tree / "nowhere.jpg")
    faces = FolderFaces(tree)
    assert len(faces) == 6
    with pytest.raises(FileNotFoundError, match=r"mia/gone\.jpg"):
        faces.read([1])


def test_names_of_any_alphabet_and_length(tmp_path):
    names = ["é" * 100 + ".jpg", "顔.png", "a b.jpg", "j.tar.jpg"]
    names.append(os.fsdecode(b"\xff.jpg"))
    for name in names:
        put(tmp_path / "elsewhere" / name, os.fsencode(name))
    put(tmp_path / "faces" / "b" / "1.jpg")
    # Links to identities are followed.
    (tmp_path / "faces" / "ünï").symlink_to(tmp_path / "elsewhere")
    faces = FolderFaces(tmp_path / "faces")
    assert sorted(faces.read(range(1, 6))) == sorted(map(os.fsencode, names))


def test_one_report_names_everything_left_out(tree, warnings_logged):
    put(tree / "zoe" / "notes.txt")
    put(tree / "zoe" / "nested.jpg" / "c.jpg")
    put(tree / "readme.md")
    (tree / "empty").mkdir()
    put(tree / "textual" / "a.txt")
    (tree / "itself").symlink_to("itself")
    # Hidden: not said.
    put(tree / ".cache" / "a.jpg")
    put(tree / ".DS_Store")
    put(tree / "zoe" / "._b.jpg")
    assert len(FolderFaces(tree)) == 5
    lines = [
        f"identity without images: {tree}/empty",
        f"identity without images: {tree}/textual",
        f"not an image: {tree}/textual/a.txt",
        f"not an image: {tree}/zoe/nested.jpg",
        f"not an image: {tree}/zoe/notes.txt",
        f"not an identity: {tree}/readme.md",
        f"not an identity: {tree}/itself",
    ]
    (warning,) = warnings_logged
    assert warning.startswith(f"{tree}: 7 entries are left out:")
    assert sorted(warning.split("\n  ")[1:]) == sorted(lines)


def test_fingerprint_follows_images_and_labels_and_not_the_place(tree, tmp_path):
    moved, prints = tmp_path.parent / "moved", [FolderFaces(tree).fingerprint]
    tree.rename(moved)
    assert FolderFaces(moved).fingerprint == prints[0]
    for change in (
        # Another image of the same name and size, a longer one, another name and label.
        lambda: (moved / "zoe" / "b.jpg").write_bytes(b"zoe/B.jpg"),
        lambda: (moved / "zoe" / "b.jpg").write_bytes(b"zoe/b.jpg longer"),
        lambda: (moved / "zoe" / "b.jpg").rename(moved / "zoe" / "c.jpg"),
        lambda: (moved / "zoe" / "c.jpg").rename(moved / "mia" / "c.jpg"),
        lambda: (moved / "mia" / "d.jpg").symlink_to("nowhere"),
    ):
        change()
        prints.append(FolderFaces(moved).fingerprint)
    assert len(set(prints)) == 6


def test_a_directory_that_may_not_be_read_is_refused(tree, monkeypatch):
    real = os.scandir

    def refuse(path):
        if str(path).endswith("mia"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    words = f"cannot read {tree}/mia: Permission denied. Check the path, that you may"
    with pytest.raises(ValueError, match=words):
        FolderFaces(tree)


def test_other_layouts_are_refused_with_a_way_out(tmp_path):
    for files, words in (
        (["a.jpg/x"], r"gone is not a directory.*<root>/<identity>"),
        (["a.jpg", "empty/.x"], "holds no identity folders with images; .* Lay it out"),
        (["a/notes.txt", "b/c/1.jpg"], "holds no identity folders with images"),
        ([".x"], "holds no identity folders with images"),
        (["anna/1.jpg", "bea/.x"], "a single identity with images; .*the folder above"),
    ):
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        for name in files:
            put(root / name)
        with pytest.raises(ValueError, match=words):
            FolderFaces(root / "gone" if "gone" in words else root)


# --- Images without identities -------------------------------------------------


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


def test_hidden_names_are_passed_over_and_links_followed_once(folder, caplog):
    (folder / "a" / "._1.jpg").write_bytes(b"\0\5\x16\7")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "4.jpg").write_bytes(b"")
    (folder / "a" / "Thumbs.db").write_bytes(b"\xd0\xcf")
    (folder / "a" / "up").symlink_to(folder)
    (folder / "itself").symlink_to("itself")
    (folder / "b" / "itself.jpg").symlink_to("itself.jpg")
    names = [os.path.relpath(path, folder) for path in images_below(folder).names]
    assert names == ["3.png", "a/1.PNG", "b/2.png"]
    assert "itself.jpg is left out: it is no file" in caplog.text


def test_names_need_not_be_utf_8(folder):
    odd = os.fsdecode(os.fsencode(folder) + b"/Ren\xe9.png")
    os.rename(folder / "3.png", odd)
    source = images_below(folder)
    assert source.names[0] == odd and len(source.fingerprint) == 64


def test_says_what_is_missing(folder):
    with pytest.raises(ValueError, match="1 of 2 images are missing.*none.jpg"):
        ListedImages("list", [folder / "3.png", folder / "none.jpg"])
    with pytest.raises(ValueError, match="is not a directory"):
        images_below(folder / "nowhere")
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no images"):
        images_below(folder / "empty")
