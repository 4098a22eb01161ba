"""ekd_tf.export.card: what whoever deploys a student is told."""

import hashlib
import json

import pytest

from ekd_tf.data.alignment import ARCFACE_TEMPLATE
from ekd_tf.export.card import FACTS
from ekd_tf.export.card import card_markdown
from ekd_tf.export.card import file_hashes
from ekd_tf.export.card import make_card
from ekd_tf.export.gates import Verification
from ekd_tf.export.parity import ParityReport
from ekd_tf.export.report import ArtefactReport
from ekd_tf.export.report import ExportReport

FIGURES = ParityReport(0.99, 0.995, 1e-6, 300)


def make_report(verified=None, notes=()):
    artefacts = tuple(
        ArtefactReport(kind, "a/x", 10, FIGURES)
        for kind in ("saved_model", "tflite_int8")
    )
    return ExportReport("face", 3, "a/3", FIGURES, verified, artefacts, notes)


def test_hashes_are_those_of_every_file(tmp_path):
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "x").write_bytes(b"abc")
    (tmp_path / "b.tflite").write_bytes(b"")
    hashes = file_hashes(tmp_path)
    assert list(hashes) == ["b.tflite", "variables/x"]
    # The test vector of FIPS 180-2.
    assert hashes["variables/x"] == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    assert hashes["b.tflite"] == hashlib.sha256().hexdigest()


@pytest.mark.parametrize("size", [112, 56])
def test_a_card_says_how_images_must_be_made(size):
    card = make_card(make_report(), size, 128, 1000, {"f": "00"}, {})
    assert card["input"]["size"] == size
    assert card["input"]["colour_order"] == "RGB"
    assert card["input"]["range"] == [0, 255]
    template = card["input"]["template"]
    # The template is in centres of pixels of 112: x of the left eye, 38.2946, lies
    # 38.7946 pixels from the edge, and so half of it in an image of half the size.
    expected = 38.2946 if size == 112 else 38.7946 / 2 - 0.5
    assert template[0][0] == pytest.approx(expected, abs=1e-4)
    assert len(template) == len(ARCFACE_TEMPLATE)
    assert card["embedding"]["dim"] == 128
    assert card["embedding"]["normalised"] == {
        "saved_model": True,
        "tflite_int8": False,
    }
    assert json.loads(json.dumps(card)) == card


def test_facts_come_from_the_user_or_are_not_given():
    facts = {"licence": "research only", "teacher": None}
    card = make_card(make_report(), 112, 128, 1000, {}, facts)
    assert card["licence"] == "research only"
    others = [name for name in FACTS if name != "licence"]
    assert [card[name] for name in others] == ["not given"] * len(others)
    assert "- licence: research only\n- teacher: not given" in card_markdown(card, "T")


CALIBRATION = {
    "fpr": 1e-4,
    "threshold": 0.41234,
    "interval": [0.4, 0.425],
    "pairs": 12345,
    "source": "folder:ours",
}


@pytest.mark.parametrize(
    ("verified", "calibration", "sentence"),
    [
        (None, None, "Threshold: not calibrated. Find one"),
        (
            Verification(0.9, 0.8, 0.3056, 32000),
            None,
            "Threshold: cosine 0.3056 for FPR 0.001, found on the images of the parity "
            "gate (32,000 negative pairs).",
        ),
        (
            Verification(0.9, 0.8, 0.3056, 32000),
            CALIBRATION,
            "Threshold: cosine 0.4123 [0.4000, 0.4250] for FPR 0.0001, found on "
            "folder:ours (12,345 negative pairs).",
        ),
        (Verification(0.9, None, None, 50), None, "Threshold: not calibrated."),
    ],
)
def test_the_threshold_and_where_it_was_found(verified, calibration, sentence):
    report = make_report(verified, notes=("A note.",))
    card = make_card(report, 112, 128, 1000, {}, {}, calibration)
    text = card_markdown(card, "| a table |")
    assert sentence in text
    assert text.startswith("# face, version 3\n")
    assert "raw in tflite_int8: divide by the length." in text
    assert "| a table |" in text and "A note." in text
    if calibration:
        assert card["calibration"] == calibration
