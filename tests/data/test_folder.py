"""One directory per identity: what is found, named and refused."""

import os

import numpy as np
import pytest

from ekd_tf.data.sources.folder import FolderFaces


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
    assert faces.identities == ["anna", "mia", "zoe"]
    np.testing.assert_array_equal(faces.labels, [0, 1, 1, 2, 2])
    assert faces.labels.dtype == np.int32
    assert (len(faces), faces.num_identities, faces.encoded) == (5, 3, True)
    order = ["anna/1.jpeg", "mia/w.Bmp", "mia/x.webp", "zoe/a.PNG", "zoe/b.jpg"]
    assert [faces.describe(i) for i in range(5)] == [str(tree / n) for n in order]
    assert faces.read(np.array([4, 0, 4])) == [b"zoe/b.jpg", b"anna/1.jpeg"] + [
        b"zoe/b.jpg"
    ]
    assert faces.name == str(tree)
    assert warnings_logged == []


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
    faces = FolderFaces(tree)
    assert faces.identities == ["anna", "mia", "zoe"]
    assert len(faces) == 5
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


def test_fingerprint_follows_images_and_labels_and_not_the_place(
    tree, tmp_path_factory
):
    first = FolderFaces(tree).fingerprint
    assert first == FolderFaces(tree).fingerprint
    moved = tmp_path_factory.mktemp("m") / "faces"
    tree.rename(moved)
    assert FolderFaces(moved).fingerprint == first
    # Another image of the same name and size.
    (moved / "zoe" / "b.jpg").write_bytes(b"zoe/B.jpg")
    replaced = FolderFaces(moved).fingerprint
    (moved / "zoe" / "b.jpg").write_bytes(b"zoe/b.jpg longer")
    resized = FolderFaces(moved).fingerprint
    (moved / "zoe" / "b.jpg").rename(moved / "zoe" / "c.jpg")
    renamed = FolderFaces(moved).fingerprint
    (moved / "zoe" / "c.jpg").rename(moved / "mia" / "c.jpg")
    relabelled = FolderFaces(moved).fingerprint
    assert len({first, replaced, resized, renamed, relabelled}) == 5
    (moved / "mia" / "d.jpg").symlink_to("nowhere")
    assert FolderFaces(moved).fingerprint not in {first, relabelled}


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
        (["a.jpg", "empty/.x"], "no identity directories with images. Move them into"),
        (["a/notes.txt", "b/c/1.jpg"], "none with images directly inside. Lay it"),
        ([".x"], "no identity directories. Lay it out as"),
        (["anna/1.jpg", "bea/.x"], "a single identity with images, .*/anna. Training"),
    ):
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        for name in files:
            put(root / name)
        with pytest.raises(ValueError, match=words):
            FolderFaces(root / "gone" if "gone" in words else root)
