import json

import numpy as np
import pytest

from ekd_tf.data import SyntheticFaces
from ekd_tf.evaluation import SourceEmbedder
from ekd_tf.evaluation import all_pair_scores
from ekd_tf.evaluation import calibrate
from ekd_tf.evaluation import card_path
from ekd_tf.evaluation import read_calibration
from ekd_tf.evaluation import write_calibration
from ekd_tf.metrics import tpr_at_fpr


@pytest.fixture(scope="module")
def source():
    return SyntheticFaces(identities=12, images_per_identity=5, size=32)


def patches(images):
    rows = np.asarray(images)[:, 8:24:4, 8:24:4].reshape(len(images), -1)
    rows = rows.astype(np.float32)
    return rows - rows.mean(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def embedder():
    return SourceEmbedder(patches, 32, traceable=False)


@pytest.fixture(scope="module")
def found(embedder, source):
    return calibrate(embedder, source, 0.02)


def test_threshold_is_that_of_all_pairs(found, embedder, source):
    scores = all_pair_scores(embedder(source), source.labels)
    tpr, thresholds = tpr_at_fpr(*scores, [0.02])
    assert (found.tpr, found.threshold) == (tpr[0], thresholds[0])
    assert found.interval[0] <= found.threshold <= found.interval[1]
    assert (found.pairs, found.source, found.flip) == (1650, source.name, True)


def test_survives_the_card_and_leaves_the_rest_of_it(found, tmp_path):
    path = card_path(tmp_path)
    path.write_text(json.dumps({"name": "student", "calibration": "old"}))
    write_calibration(path, found)
    card = json.loads(path.read_text())
    assert card["name"] == "student"
    assert card["calibration"].keys() >= {
        "fpr",
        "threshold",
        "interval",
        "pairs",
        "source",
    }
    assert read_calibration(path) == found


def test_a_card_is_made_where_there_is_none(found, tmp_path):
    path = card_path(tmp_path / "model.tflite")
    assert path == tmp_path / "card.json"
    assert read_calibration(path) is None
    write_calibration(path, found)
    assert read_calibration(path) == found


def test_says_the_threshold_the_fpr_and_what_it_rests_on(found):
    text = found.text()
    assert f"Threshold {found.threshold:.4f} [" in text
    assert "for FPR 2e-2" in text and "1,650 negative pairs, with flip" in text


def test_rejects_an_fpr_that_no_threshold_reaches(embedder, source):
    with pytest.raises(ValueError, match="1e-4 is not measurable: it takes 100000"):
        calibrate(embedder, source, 1e-4)
    with pytest.raises(ValueError, match=r"`calibrate_fpr` must be in \(0, 1\)"):
        calibrate(embedder, source, 0.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as a model card"),
        ("[]", "must hold a JSON object"),
        ('{"calibration": {"fpr": 1}}', "calibration in .* cannot be read"),
    ],
)
def test_says_what_is_wrong_with_a_card(tmp_path, text, message):
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_calibration(tmp_path / "card.json")
