"""A threshold decides every pair alike, whichever way the model is run."""

import importlib.util
import json
import pathlib
import re

import keras
import numpy as np
import pytest
from commands import succeed
from pictures import write_people
from toys import backbone


@pytest.fixture(scope="module")
def student_class():
    pytest.importorskip("ai_edge_litert", reason="needs the extra litert")
    tool = pathlib.Path(__file__).parents[2] / "tools" / "run_tflite.py"
    spec = importlib.util.spec_from_file_location("run_tflite", tool)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Student


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A model, exported and then calibrated, and faces of another size than its own."""
    root = tmp_path_factory.mktemp("home")
    backbone(dim=6, batch_norm=False).save(root / "m.keras")
    images = f"folder:{write_people(root / 'faces', people=6, each=4, side=24)}"
    model = f"--model={root / 'm.keras'}"
    formats = ["--formats=float32,int8", f"--calibration_images={images}"]
    succeed("export_model", model, *formats, f"--data={images}", "--minimum_cosine=-1")
    succeed("evaluate", model, *calibration(images, 0.1))
    return root


def calibration(images, fpr):
    return [f"--calibrate_fpr={fpr}", f"--eval_sets=faces:{images}", "--fprs=1e-1"]


def threshold(file):
    card = json.loads(file.with_name("card.json").read_text())
    return card["calibration"][file.name]["threshold"]


def decisions_of_verify(home, model, names):
    """Returns cosines and decisions of all ordered pairs of images, by `verify`."""
    nearest = [f"--gallery={home / 'faces'}", f"--nearest={len(names)}"]
    done = succeed("verify", f"--model={model}", *nearest, *names)
    found, probe = {}, None
    for line in done.stdout.splitlines():
        said = re.fullmatch(r"  (\S+)  cosine (\S+): (one person|two people) .*", line)
        if said is None:
            probe = line
        else:
            found[probe, said[1]] = float(said[2]), said[3] == "one person"
    return found


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_verify_and_the_tool_without_tensorflow_decide_every_pair_alike(
    home, student_class, precision
):
    file = home / "export" / "student" / "1" / f"student-1-{precision}.tflite"
    names = sorted(str(path) for path in (home / "faces").rglob("*.png"))
    student = student_class(file)
    assert student.threshold == threshold(file)
    rows = np.stack([student.embed(student.read(name)) for name in names])
    cosines = (rows @ rows.T).astype(float)
    of_file = decisions_of_verify(home, file, names)
    assert len(of_file) == len(names) ** 2
    models = [of_file]
    if precision == "float32":
        models.append(decisions_of_verify(home, home / "m.keras", names))
        assert threshold(home / "m.keras") == pytest.approx(threshold(file), abs=1e-5)
        model = keras.models.load_model(home / "m.keras")
        images = np.stack([student.read(name) for name in names])
        raw = np.asarray(model(images, training=False))
        unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
        np.testing.assert_allclose(unit @ unit.T, cosines, atol=1e-4)
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            for model in models:
                cosine, one_person = model[a, b]
                assert cosine == pytest.approx(cosines[i, j], abs=1.5e-4)
                assert one_person == (cosines[i, j] > student.threshold), (a, b)


def test_another_model_in_the_folder_leaves_the_exports_as_they_are(home):
    backbone(dim=6, seed=1, batch_norm=False).save(home / "other.keras")
    version = home / "export" / "student" / "1"
    before = (version / "card.json").read_bytes()
    images = f"folder:{home / 'faces'}"
    done = succeed(
        "evaluate", f"--model={home / 'other.keras'}", *calibration(images, 0.2)
    )
    assert "it was not exported of" in done.stderr
    assert (version / "card.json").read_bytes() == before
    card = json.loads((home / "card.json").read_text())["calibration"]
    assert card["m.keras"]["fpr"] == 0.1 and card["other.keras"]["fpr"] == 0.2
