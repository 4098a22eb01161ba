"""Photographs to aligned faces: choice, landmarks, lists, resuming, real faces."""

import dataclasses
import os
import types

import align_faces as tool
import numpy as np
import pytest
from pictures import face
from pictures import pixels
from pictures import with_orientation
from PIL import Image
from refusals import refused

from ekd_tf.data.alignment import ARCFACE_TEMPLATE
from ekd_tf.data.alignment import align


@pytest.fixture
def settings(tmp_path):
    photos, faces = tmp_path / "photos", tmp_path / "faces"
    return tool.Settings(photos=photos, output=faces, processes=1)


@pytest.fixture
def photos(settings, rng):
    """Three smooth photographs in folders, and a file that is none."""
    found = {}
    for name in ("ann/1.png", "ann/2.png", "bob/x y.png"):
        path = settings.photos / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = face(rng, 120, 180)
        image.save(path)
        found[name] = pixels(image)
    (settings.photos / "bob" / "notes.txt").write_text("no photograph")
    return found


def points_of(shift):
    return ARCFACE_TEMPLATE * 0.9 + shift


def assert_face(path, image, points, size=112):
    with Image.open(path) as found:
        assert found.size == (size, size)
        error = np.abs(np.asarray(found, int) - align(image, points, size))
    # JPEG of smooth pixels, without subsampling.
    assert error.mean() < 3


def test_a_face_outside_of_its_photograph_is_left_out(settings, photos):
    # Above it lie the eyes, then the nose as well.
    height, width = photos["ann/1.png"].shape[:2]
    points = {
        "ann/1.png": points_of([30, -50]),
        "ann/2.png": points_of([30, -70]),
        "bob/x y.png": points_of([width, 5]),
    }
    settings = dataclasses.replace(settings, size=56)
    assert tool.align_all(settings, points) == (0, 1, 2)
    face_of = settings.output / "ann" / "1.jpg"
    assert_face(face_of, photos["ann/1.png"], points["ann/1.png"], 56)
    words = f"of its points lie outside of its {width}x{height} pixels"
    assert (settings.output.parent / "faces.left_out.tsv").read_text() == (
        f"ann/2.png\t3 {words}\nbob/x y.png\t5 {words}\n"
    )


@pytest.mark.slow
def test_two_processes_write_what_one_writes(settings, photos):
    landmarks = {name: points_of([30, 5]) for name in photos if name != "ann/2.png"}
    found = []
    for processes in (1, 2):
        out = settings.output.with_name(f"faces{processes}")
        here = dataclasses.replace(settings, output=out, processes=processes)
        assert tool.align_all(here, landmarks) == (0, 2, 1)
        faces = {p.relative_to(out): p.read_bytes() for p in out.rglob("*.*")}
        found.append((faces, tool.left_out_path(out).read_text()))
    assert found[0] == found[1]
    assert len(found[0][0]) == 2


def test_goes_on_where_it_stopped(settings, photos):
    landmarks = {name: points_of([20, 0]) for name in photos if name != "ann/2.png"}
    tool.align_all(settings, landmarks)
    done = settings.output / "ann" / "1.jpg"
    done.write_bytes(b"done before")
    (settings.output / "bob" / "x y.jpg").unlink()
    assert tool.align_all(settings, landmarks) == (1, 1, 1)
    assert done.read_bytes() == b"done before"
    landmarks["ann/2.png"] = points_of([20, 0])
    assert tool.align_all(settings, landmarks) == (2, 1, 0)
    assert tool.align_all(settings, landmarks) == (3, 0, 0)
    assert tool.left_out_path(settings.output).read_text() == ""


def test_names_of_any_bytes_and_length(settings, photos, tmp_path):
    (settings.photos / "ann" / "1.png").rename(settings.photos / ("n" * 251 + ".png"))
    odd = os.fsencode(settings.photos / "ann") + b"/Ren\xe9\n.png"
    os.rename(settings.photos / "ann" / "2.png", odd)
    (settings.photos / "loop").symlink_to(settings.photos)
    path = tmp_path / "points.txt"
    points = " ".join(map(str, points_of([30, 5]).ravel()))
    path.write_text(f"\ufeff{'n' * 251}.png {points}\n./bob/x y.png {points}\n")
    assert tool.align_all(settings, tool.read_landmarks(path)) == (0, 1, 2)
    lines = tool.left_out_path(settings.output).read_bytes().splitlines()
    assert lines == [
        b"ann/Ren\xe9\\n.png\tno points in --landmarks",
        b"n" * 251 + b".png\tcannot be written: File name too long",
    ]
    assert (settings.output / "bob" / "x y.jpg").exists()


def test_a_detector_decides_by_the_rule_and_a_turned_photograph_is_turned(
    settings, photos, monkeypatch
):
    name = "ann/1.png"
    upright = photos[name]
    (settings.photos / name).write_bytes(with_orientation(upright, 6))
    seen = []

    def detect(network, image, settings):
        seen.append(image)
        small = tool.Face((0, 0, 10, 10), points_of([0, 0]))
        return [small, tool.Face((0, 0, 20, 20), points_of([50, 10]))]

    monkeypatch.setattr(tool, "detector", lambda: None)
    monkeypatch.setattr(tool, "detect", detect)
    assert tool.align_photo(name, settings, None) is None
    np.testing.assert_array_equal(seen[0], upright)
    assert_face(settings.output / "ann" / "1.jpg", upright, points_of([50, 10]))
    corner, middle = (tool.Face((x, x, 9 - x, 9 - x), None) for x in (0, 2))
    assert tool.choose_face([corner, middle], 12, 12, "central") is middle


def test_damaged_photographs_and_points_are_listed_with_a_reason(settings, photos):
    path = settings.photos / "ann/1.png"
    path.write_bytes(path.read_bytes()[:60])
    landmarks = {name: np.ones((5, 2)) for name in photos}
    assert tool.align_all(settings, landmarks) == (0, 0, 3)
    lines = tool.left_out_path(settings.output).read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == list(photos)
    assert "runcated" in lines[0]
    assert "ValueError: `points` must be apart" in lines[1]


def test_faces_are_found_in_pixels_of_the_photograph(settings):
    # In hundredths of the width of whatever is shown.
    expected = np.array([[20, 10], [40, 10], [30, 20], [22, 30], [38, 30]])
    names = "left_eye right_eye nose mouth_left mouth_right".split()
    box = np.array([10, 5, 40, 35])

    def found(side, confidence=0.99):
        """Returns the faces, and the side and the least face the network is given."""
        asked = []

        def detect_faces(image, min_face_size):
            asked.extend((max(image.shape), min_face_size))
            unit = image.shape[1] / 100
            points = dict(zip(names, (expected * unit).tolist()))
            return [{"box": box * unit, "confidence": confidence, "keypoints": points}]

        network = types.SimpleNamespace(detect_faces=detect_faces)
        image = np.zeros((side // 2, side, 3), np.uint8)
        return tool.detect(network, image, settings), asked

    for side, shown in ((200, [200, 20]), (4096, [1024, 12])):
        [face], asked = found(side)
        assert asked == shown
        np.testing.assert_allclose(face.points * 100 / side, expected)
        np.testing.assert_allclose(np.array(face.box) * 100 / side, box)
    # Small and weak ones are none.
    assert found(50)[0] == found(4096, confidence=0.5)[0] == []


def test_what_cannot_be_aligned_stops_at_once(settings, photos, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused(r"pip install '\.\[align\]'", tool.main, settings)
    landmarks = {str(settings.photos / name): points_of([20, 0]) for name in photos}
    words = "such as ann/1.png. Received none of its 3 photographs, but /.*ann/1.png"
    refused(words, tool.align_all, settings, landmarks)
    (settings.photos / "ann" / "1.jpg").write_bytes(b"")
    words = "ann/1.jpg and ann/1.png would both become"
    refused(words, tool.align_all, settings, None)
    assert not settings.output.exists()
    # Faces do not go where photographs are.
    for output in (settings.photos, settings.photos / "ann" / "faces"):
        inside = dataclasses.replace(settings, output=output)
        refused("`--output` must lie outside of --photos", tool.align_all, inside, {})


def test_reads_landmarks(tmp_path):
    path = tmp_path / "points.txt"
    path.write_text("# a comment\n\na b.jpg 1 2 3 4 5 6 7 8 9 10.5\n")
    landmarks = tool.read_landmarks(path)
    assert list(landmarks) == ["a b.jpg"]
    expected = [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10.5]]
    np.testing.assert_array_equal(landmarks["a b.jpg"], expected)
    for text, words in (
        ("a.jpg 1 2 3 4 5 6 7 8 9\n", r":1 must be 'path x1 y1 ... x5 y5'"),
        ("a.jpg 1 2 3 4 5 6 7 8 9 ten\n", r"Received: 'a.jpg 1 .* ten'"),
        ("a.jpg" + " 1" * 10 + "\na.jpg" + " 2" * 10, r":2 names a.jpg a second time"),
    ):
        path.write_text(text)
        refused(words, tool.read_landmarks, path)


@pytest.mark.realdata
def test_finds_real_faces_pasted_into_scenes(settings, realdata):
    pytest.importorskip("mtcnn")
    # The faces are aligned crops: cut out of a scene they must come back.
    originals = sorted((realdata / "celeba40_folder").rglob("*.jpg"))[::200]
    for number, path in enumerate(originals):
        scene = Image.new("RGB", (500, 380), (90, 110, 120))
        with Image.open(path) as face:
            scene.paste(face.resize((224, 224), Image.Resampling.BICUBIC), (150, 70))
            scene.paste(face, (10, 10))
        settings.photos.mkdir(exist_ok=True)
        scene.save(settings.photos / f"{number}.png")
    Image.new("RGB", (300, 200), (30, 200, 90)).save(settings.photos / "none.png")
    assert tool.align_all(settings, None) == (0, len(originals), 1)
    for number, path in enumerate(originals):
        with Image.open(path) as image:
            original = np.asarray(image, float)
        with Image.open(settings.output / f"{number}.jpg") as image:
            aligned = np.asarray(image, float)
        inner = np.s_[24:104, 16:96]
        a, b = original[inner].ravel(), aligned[inner].ravel()
        assert np.corrcoef(a, b)[0, 1] > 0.8


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_command(
    settings, photos, monkeypatch, tmp_path
):
    # Killed while it works, as for want of memory.
    (tmp_path / "align_faces.py").write_text(
        "import os, signal\n"
        "class Settings: pass\n"
        "def align_photo(*task): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    several = dataclasses.replace(settings, processes=2)
    words = "a process was killed.*fewer --processes"
    points = {"ann/1.png": points_of([30, 5])}
    refused(words, tool.align_all, several, points)
