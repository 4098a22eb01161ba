"""tools/run_tflite.py: a student without TensorFlow."""

import importlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
from pictures import encode
from pictures import face
from pictures import kinds
from PIL import Image
from refusals import refused
from toys import backbone
from toys import unit_embeddings

from ekd_tf.data import image_pixels
from ekd_tf.data.image_pixels import fit
from ekd_tf.evaluation.calibration import file_hash
from ekd_tf.export import convert_tflite

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "run_tflite.py"
# Imports fail for all but what the tool says it needs.
BARE = """
import runpy, sys
for name in ("tensorflow", "keras", "ekd_tf", "absl"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A float and an int8 student, two images, and their embeddings."""
    pytest.importorskip("ai_edge_litert", reason="needs the extra litert")
    root = tmp_path_factory.mktemp("faces")
    model = backbone(seed=1, batch_norm=False)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    for name, image in zip("ab", pixels):
        Image.fromarray(image).save(root / f"{name}.png")
    for precision, output in (("float32", "float32"), ("int8", "int8")):
        content = convert_tflite(model, precision, pixels, output)
        (root / f"{precision}.tflite").write_bytes(content)
    return root, unit_embeddings(model, pixels)


def load():
    """Loads the tool anew, with what stands for LiteRT now."""
    sys.modules.pop("run_tflite", None)
    return importlib.import_module("run_tflite")


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-c", BARE, str(TOOL), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(("precision", "atol"), [("float32", 1e-5), ("int8", 0.05)])
def test_embeds_without_tensorflow(files, tmp_path, precision, atol):
    root, expected = files
    a, b, output = root / "a.png", root / "b.png", tmp_path / "rows.npy"
    # Its name need not be UTF-8.
    model = os.fsdecode(os.fsencode(tmp_path) + b"/v\xe9lo.tflite")
    shutil.copy(root / f"{precision}.tflite", model)
    done = run(model, a, b, f"--output={output}")
    assert done.returncode == 0, done.stderr
    received = np.load(output)
    np.testing.assert_allclose(received, expected, atol=atol)
    np.testing.assert_allclose(np.linalg.norm(received, axis=1), 1, rtol=1e-5)
    *_, result, decision = done.stdout.splitlines()
    assert decision.startswith("no decision, as no threshold is known")
    cosine, *paths = result.split()
    assert paths == [str(a), str(b)]
    assert float(cosine) == pytest.approx(received[0] @ received[1], abs=1e-4)


def test_what_cannot_work_is_named_in_one_line(files, monkeypatch, tmp_path):
    main = load().main
    model, a = files[0] / "float32.tflite", files[0] / "a.png"
    (tmp_path / "x.npy").mkdir()
    folder, gone = (f"--output={tmp_path}/{name}" for name in ("x.npy", "y/x.npy"))
    for words, *arguments in (
        ("none.png", model, files[0] / "none.png"),
        ("give two images to compare", model, a),
        ("a.png cannot be run by LiteRT: .*valid Flatbuffer", a, a),
        # Before the images are read.
        ("--output=.*: its folder cannot", model, "none", gone),
        ("x.npy cannot be written: .*directory", model, a, folder),
    ):
        monkeypatch.setattr(sys, "argv", ["run_tflite.py", *map(str, arguments)])
        text = refused(rf"^run_tflite\.py: .*{words}", main, error=SystemExit)
        assert "\n" not in text


def test_reads_every_kind_of_file_as_the_pipeline_does(monkeypatch, rng, tmp_path):
    # What it needs of LiteRT is tested above.
    for name in ("ai_edge_litert", "ai_edge_litert.interpreter"):
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(Interpreter=None))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    tool = load()
    assert tool.MOST_PIXELS == image_pixels.MOST_PIXELS
    path = tmp_path / "image"
    damaged = face(rng)
    files = [data for data, _ in kinds(rng).values()]
    files += [encode(damaged, "JPEG"), encode(damaged.convert("CMYK"), "JPEG")]
    for data in files:
        path.write_bytes(data)
        found = np.asarray(tool.read_image(path))
        np.testing.assert_array_equal(found, image_pixels.read_image(data))
    for data, reason in (
        (b"text", "cannot identify image file"),
        (encode(face(rng, 40, 40))[:-99], ""),
        (encode(Image.new("F", (4, 4)), "TIFF"), "its pixels have 32 bits"),
    ):
        path.write_bytes(data)
        refused(f"cannot read {path}: {reason}", tool.read_image, path)
    monkeypatch.setattr(tool, "MOST_PIXELS", 255)
    path.write_bytes(encode(face(rng)))
    refused("it is 16x16: images of more than 255 pixels", tool.read_image, path)


def test_resizes_as_the_package_does(files, rng, tmp_path):
    student, path = load().Student(files[0] / "float32.tflite"), tmp_path / "face.png"
    for height, width in ((40, 17), (9, 12), (250, 250)):
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(image).save(path)
        off = np.abs(student.read(path).astype(int) - fit(image, 16).numpy())
        # Float32 sums differ by 1e-4, which decides one value in thousands.
        assert off.max() <= 1 and np.count_nonzero(off) <= 2


def test_decides_by_the_threshold_of_the_card(files, tmp_path):
    student_class = load().Student
    model = shutil.copy(files[0] / "float32.tflite", tmp_path / "s.tflite")
    figures = {"threshold": 0.25, "sha256": file_hash(model)}
    for entry, threshold in (
        ({}, None),
        ({"s.tflite": {**figures, "view": "image and mirror image"}}, None),
        ({"s.tflite": {**figures, "view": "one image"}}, 0.25),
    ):
        card = {"calibration": {"other.tflite": {}, **entry}}
        (tmp_path / "card.json").write_text(json.dumps(card))
        assert student_class(model).threshold == threshold
    done = run(model, files[0] / "a.png", files[0] / "a.png")
    assert done.returncode == 0, done.stderr
    assert "one person" in done.stdout
    shutil.copy(files[0] / "int8.tflite", model)
    words = "card.json is of another s.tflite, which has changed since; write it anew"
    refused(words, student_class, model)
    (tmp_path / "card.json").write_text("[]")
    refused("card.json is no model card", student_class, model)
