"""A threshold decides every pair alike, whichever way the model is run."""

import json
import re

import keras
import numpy as np
import pytest
from commands import succeed
from pictures import write_people
from toys import backbone
from toys import unit

from ekd_tf.run.config import TrainConfig
from ekd_tf.run.workdir import Workdir


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run whose model was exported and calibrated, on faces of another size."""
    root = tmp_path_factory.mktemp("home")
    backbone(dim=6, batch_norm=False).save(root / "model.keras")
    images = f"folder:{write_people(root / 'faces', people=6, each=4, side=24)}"
    Workdir(root).record_run(TrainConfig(data=images).to_record())
    formats = ["--formats=float32,int8", "--minimum_cosine=-1"]
    succeed("export_model", f"--model={root}", *formats)
    calibrate(root, root, 0.1)
    return root


def calibrate(home, model, fpr):
    sets = f"--eval_sets=faces:folder:{home / 'faces'}"
    flags = [f"--calibrate_fpr={fpr}", sets, "--fprs=1e-1"]
    return succeed("evaluate", f"--model={model}", *flags)


def card_of(folder):
    return json.loads((folder / "card.json").read_text())


def threshold(file):
    return card_of(file.parent)["calibration"][file.name]["threshold"]


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
def test_verify_and_the_tool_decide_every_pair_alike(home, precision):
    pytest.importorskip("ai_edge_litert", reason="needs the extra litert")
    from run_tflite import Student

    file = home / "export" / "student" / "1" / f"student-1-{precision}.tflite"
    names = sorted(str(path) for path in (home / "faces").rglob("*.png"))
    student = Student(file)
    assert student.threshold == threshold(file)
    rows = np.stack([student.embed(student.read(name)) for name in names])
    cosines = (rows @ rows.T).astype(float)
    of_file = decisions_of_verify(home, file, names)
    assert len(of_file) == len(names) ** 2
    models = [of_file]
    if precision == "float32":
        saved = home / "model.keras"
        models.append(decisions_of_verify(home, saved, names))
        assert threshold(saved) == pytest.approx(threshold(file), abs=1e-5)
        images = np.stack([student.read(name) for name in names])
        rows = unit(keras.models.load_model(saved)(images, training=False).numpy())
        np.testing.assert_allclose(rows @ rows.T, cosines, atol=1e-4)
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            for model in models:
                cosine, one_person = model[a, b]
                assert cosine == pytest.approx(cosines[i, j], abs=1.5e-4)
                assert one_person == (cosines[i, j] > student.threshold), (a, b)


def test_another_model_in_the_folder_leaves_the_exports_as_they_are(home):
    backbone(dim=6, seed=1, batch_norm=False).save(home / "other.keras")
    version = home / "export" / "student" / "1"
    before = card_of(version)
    done = calibrate(home, home / "other.keras", 0.2)
    assert "it was not exported of" in done.stderr
    assert card_of(version) == before
    card = card_of(home)["calibration"]
    assert card["model.keras"]["fpr"] == 0.1 and card["other.keras"]["fpr"] == 0.2
