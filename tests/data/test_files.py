import os

import numpy as np
import pytest
from records import put
from refusals import refused

from ekd_tf import data


@pytest.fixture
def tree(tmp_path):
    """Three identities whose file names sort differently from their creation."""
    for name in ("zoe/b.jpg", "zoe/a.PNG", "anna/1.jpeg", "mia/x.webp", "mia/w.Bmp"):
        put(tmp_path / name, name.encode())
    return tmp_path


def test_identities_and_images_are_sorted_by_name(tree, warnings_logged):
    faces = data.FolderFaces(tree)
    assert faces.identity_names() == ["anna", "mia", "zoe"]
    np.testing.assert_array_equal(faces.labels, [0, 1, 1, 2, 2])
    order = ["anna/1.jpeg", "mia/w.Bmp", "mia/x.webp", "zoe/a.PNG", "zoe/b.jpg"]
    assert [faces.describe(i) for i in range(5)] == [str(tree / n) for n in order]
    assert faces.read([4, 0]) == [b"zoe/b.jpg", b"anna/1.jpeg"]
    assert (faces.name, warnings_logged) == (str(tree), [])


def test_scanning_opens_no_image(tree):
    (tree / "mia" / "x.webp").chmod(0)
    (tree / "mia" / "gone.jpg").symlink_to(tree / "nowhere.jpg")
    faces = data.FolderFaces(tree)
    assert len(faces) == 6 and len(faces.fingerprint) == 64
    refused(r"mia/gone\.jpg", faces.read, [1], error=FileNotFoundError)


def test_names_of_any_alphabet_and_length(tmp_path):
    names = ["é" * 100 + ".jpg", "顔.png", "a b.jpg", "j.tar.jpg"]
    names.append(os.fsdecode(b"\xff.jpg"))
    for name in names:
        put(tmp_path / "elsewhere" / name, os.fsencode(name))
    put(tmp_path / "faces" / "b" / "1.jpg")
    # Links to identities are followed.
    (tmp_path / "faces" / "ünï").symlink_to(tmp_path / "elsewhere")
    faces = data.FolderFaces(tmp_path / "faces")
    assert sorted(faces.read(range(1, 6))) == sorted(map(os.fsencode, names))


def test_one_report_names_everything_left_out(tree, warnings_logged):
    left_out = {
        "zoe/notes.txt": "not an image: zoe/notes.txt",
        "zoe/nested.jpg/c.jpg": "not an image: zoe/nested.jpg",
        "readme.md": "not an identity: readme.md",
        "textual/a.txt": "not an image: textual/a.txt",
    }
    # Hidden: not said.
    for name in (*left_out, ".cache/a.jpg", ".DS_Store", "zoe/._b.jpg"):
        put(tree / name)
    (tree / "empty").mkdir()
    (tree / "itself").symlink_to("itself")
    assert len(data.FolderFaces(tree)) == 5
    lines = [
        *left_out.values(),
        "identity without images: empty",
        "identity without images: textual",
        "not an identity: itself",
    ]
    (warning,) = warnings_logged
    assert warning.startswith(f"{tree}: 7 entries are left out:")
    assert sorted(warning.replace(f"{tree}/", "").split("\n  ")[1:]) == sorted(lines)


def test_a_directory_that_may_not_be_read_is_refused(tree, monkeypatch):
    real = os.scandir

    def refuse(path):
        if str(path).endswith("mia"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    refused(f"cannot read {tree}/mia: Permission denied. Check", data.FolderFaces, tree)


def test_other_layouts_are_refused_with_a_way_out(tmp_path):
    for number, (files, words) in enumerate(
        (
            (["a.jpg/x"], r"gone is not a directory.*<root>/<identity>"),
            (["a.jpg", "empty/.x"], "holds no identity folders with .* Lay it out"),
            (["a/notes.txt", "b/c/1.jpg"], "holds no identity folders with images"),
            (["anna/1.jpg", "bea/.x"], "a single identity with .*the folder above"),
        )
    ):
        root = tmp_path / str(number)
        for name in files:
            put(root / name)
        refused(words, data.FolderFaces, root / "gone" if "gone" in words else root)


def test_reads_in_the_order_given(tree):
    paths = [tree / "zoe" / "b.jpg", tree / "anna" / "1.jpeg"]
    source = data.ListedImages("list", paths)
    assert source.read([0, 1]) == [b"zoe/b.jpg", b"anna/1.jpeg"]
    assert source.describe(1) == str(paths[1])
    assert (source.num_identities, source.labels.tolist()) == (1, [0, 0])
    paths[1] = tree / "none.jpg"
    refused("1 of 2 images are missing.*none.jpg", data.ListedImages, "list", paths)


def test_hidden_names_are_passed_over_and_links_followed_once(tree, caplog):
    # Names need not be UTF-8.
    odd = os.fsdecode(b"zoe/Ren\xe9.png")
    os.rename(tree / "zoe" / "b.jpg", tree / odd)
    for name in ("mia/._1.jpg", ".hidden/4.jpg", "zoe/Thumbs.db"):
        put(tree / name)
    for name, target in (
        ("zoe/up", tree),
        ("itself", "itself"),
        ("mia/itself.jpg", "itself.jpg"),
    ):
        (tree / name).symlink_to(target)
    source = data.images_below(tree)
    names = [os.path.relpath(path, tree) for path in source.names]
    assert names == ["anna/1.jpeg", "mia/w.Bmp", "mia/x.webp", odd, "zoe/a.PNG"]
    assert "itself.jpg is left out: it is no file" in caplog.text
    (tree / "empty").mkdir()
    refused("empty holds no images", data.images_below, tree / "empty")
    refused("is not a directory", data.images_below, tree / "nowhere")
