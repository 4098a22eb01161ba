import dataclasses
import hashlib
import json

import pytest
from toys import backbone

from ekd_tf.data.alignment import ARCFACE_TEMPLATE
from ekd_tf.evaluation import Calibration
from ekd_tf.evaluation import read_calibration
from ekd_tf.export import parity
from ekd_tf.export.card import FACTS
from ekd_tf.export.card import card_markdown
from ekd_tf.export.card import exported_files
from ekd_tf.export.card import make_card

FILES = ("saved_model.pb", "x-3-int8.tflite")


@pytest.fixture
def exported(tmp_path):
    for name in FILES:
        (tmp_path / name).write_text(name)
    return tmp_path


def make_report(verified=None, notes=(), int8=1.0):
    figures = parity.ParityReport(1.0, 1.0, 1e-6, 300)
    saved = parity.ArtefactReport("saved_model", "a/3", 10, figures, verified)
    close, file = dataclasses.replace(figures, min_cosine=int8), "a/3/x-3-int8.tflite"
    artefacts = saved, parity.ArtefactReport("tflite_int8", file, 10, close, verified)
    return parity.ExportReport("face", 3, "a/3", figures, verified, artefacts, notes)


def test_a_card_says_how_images_must_be_made_and_what_is_known(exported):
    # The template is in centres of pixels of 112: x of the left eye, 38.2946, lies
    # 38.7946 pixels from the edge, and so half of it in an image of half the size.
    for size, expected in ((112, 38.2946), (56, 38.7946 / 2 - 0.5)):
        facts = {"licence": "research only", "teacher": None}
        card = make_card(make_report(), backbone(128, size=size), exported, facts)
        assert card["input"]["size"] == size
        template = card["input"]["template"]
        assert template[0][0] == pytest.approx(expected, abs=1e-4)
    assert len(template) == len(ARCFACE_TEMPLATE)
    assert card["embedding"]["dim"] == 128
    kinds = {"saved_model": True, "tflite_int8": False}
    assert card["embedding"]["normalised"] == kinds
    hashes = {name: hashlib.sha256(name.encode()).hexdigest() for name in FILES}
    assert json.loads(json.dumps(card))["files"] == hashes
    assert card["licence"] == "research only"
    others = [name for name in FACTS if name != "licence"]
    assert [card[name] for name in others] == ["not given"] * len(others)
    assert "- licence: research only\n- teacher: not given" in card_markdown(card)


def test_a_card_has_no_path_of_the_machine_it_was_made_on(exported):
    report = make_report()
    artefacts = [
        dataclasses.replace(artefact, path=f"/me/runs/{artefact.path}")
        for artefact in report.artefacts
    ]
    report = dataclasses.replace(report, path="/me/runs/a/3", artefacts=artefacts)
    facts = {
        "teacher": "cache:r100 of /me/models/r100.onnx",
        "training_data": "folder:/me/faces",
        "command": "python -m ekd_tf.train --data=folder:/me/faces --workdir=/me/r/a",
    }
    card = make_card(report, backbone(128, size=112), exported, facts)
    assert "/me/" not in json.dumps(card) + card_markdown(card)
    assert card["teacher"] == "cache:r100 of models/r100.onnx"
    assert card["command"].endswith("--data=folder:faces --workdir=a")
    paths = [artefact["path"] for artefact in card["metrics"]["artefacts"]]
    assert paths == [".", "x-3-int8.tflite"]


CALIBRATION = Calibration(1e-4, 0.41234, (0.4, 0.425), 0.5, 12345, "folder:ours")


def test_the_threshold_of_every_file_and_where_it_was_found(exported):
    measured = parity.Verification(0.9, 0.8, 0.3056, 32000)
    unmeasured = parity.Verification(0.9, None, None, 50)
    own = "0.3056    | 1e-3 | 0.8000 | one image    | 32,000"
    gate = ["the images of the parity gate"]
    gate += [f"| saved_model.pb  | {own}", f"| x-3-int8.tflite | {own}"]
    found = "0.4123 [0.4000, 0.4250] | "
    # int8 may have other scores than the Keras model, which was calibrated.
    other = [f"| saved_model.pb  | {found}1e-4 | 0.5000 | one "]
    other += ["| 12,345         | folder:ours |", "| x-3-int8.tflite | not calibrated "]
    for int8, verified, calibration, sentences in (
        (0.99, measured, None, gate),
        (0.99, measured, CALIBRATION, other),
        (1.0, None, CALIBRATION, [f"| x-3-int8.tflite | {found}"]),
        (0.99, unmeasured, None, ["Threshold: not calibr"]),
    ):
        report = make_report(verified, notes=("A note.",), int8=int8)
        card = make_card(report, backbone(128, size=112), exported, {}, calibration)
        text = card_markdown(json.loads(json.dumps(card)))
        for sentence in sentences:
            assert sentence in text, text
        assert text.startswith("# face, version 3\n")
        assert "raw in tflite_int8: divide by the length." in text
        assert report.to_table() in text and "A note." in text
        (exported / "card.json").write_text(json.dumps(card))
        for name in card["calibration"]:
            assert read_calibration(exported / name)
        (exported / "card.json").unlink()


def test_finds_the_other_artefacts_of_a_model(tmp_path):
    home = tmp_path / "export" / "face" / "3"
    (home / "variables").mkdir(parents=True)
    names = ["saved_model.pb", "variables/x", "x-3-int8.tflite", "x-3.onnx"]
    for name in names:
        (home / name).touch()
    card = {"files": {name: "00" for name in [*names, "x-3-gone.tflite"]}}
    (home / "card.json").write_text(json.dumps(card))
    (tmp_path / "card.json").write_text("{}")
    of_keras = ["saved_model.pb", "x-3-int8.tflite", "x-3.onnx"]
    for model, expected in (
        (home / "x-3.onnx", of_keras[:2]),
        (tmp_path / "model.keras", of_keras),
    ):
        assert exported_files(model) == [home / name for name in expected]


def test_the_table_of_a_report_and_its_way_through_json():
    def cells(line):
        return [cell.strip() for cell in line.split("|")[1:-1]]

    figures = parity.ParityReport(0.99, 0.995, 1e-6, 4)
    verified = parity.Verification(0.97, None, None, 50)
    measured = {"median_ms": 1.25, "p95_ms": 2, "median_ms_2": 1.5}
    measured |= {"partitions": 34, "peak_bytes": 3_210_000}
    kind, path = "tflite_int8", "a/x.tflite"
    int8 = parity.ArtefactReport(kind, path, 40_000, figures, verified, **measured)
    saved = parity.ArtefactReport("saved_model", "a/s/1", 2_500_000, figures)
    verified = parity.Verification(0.98, 0.75, 0.31, 5000)
    report = parity.ExportReport("s", 1, "a/s/1", figures, verified, (saved, int8))
    _, _, keras, *artefacts = map(cells, report.to_table().splitlines())
    assert keras == ["Keras", *["n/a"] * 3, "0.9800", "0.7500", *["n/a"] * 5]
    assert artefacts == [
        ["saved_model", "2.50", "0.990000", "0.995000", *["n/a"] * 7],
        ["tflite_int8", "0.04", "0.990000", "0.995000", "0.9700", "n/a"]
        + ["1.2500", "2", "1.5000", "3.2", "34"],
    ]
    plain = json.loads(json.dumps(report.to_dict()))
    assert parity.artefacts_table(plain) == report.to_table()
