import hashlib
import json
import re
import types

import numpy as np
import pytest
from records import put
from refusals import refused

from ekd_tf import evaluation
from ekd_tf.data import SyntheticFaces
from ekd_tf.metrics import ROC


@pytest.fixture(scope="module")
def source():
    return SyntheticFaces(identities=12, images_per_identity=5, size=32)


def patches(images):
    rows = np.asarray(images)[:, 8:24:4, 8:24:4].reshape(len(images), -1)
    rows = rows.astype(np.float32)
    return rows - rows.mean(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def embedder():
    return evaluation.SourceEmbedder(patches, 32, traceable=False)


@pytest.fixture
def model(tmp_path):
    """A model's file, of which only the bytes matter."""
    file = tmp_path / "model.tflite"
    file.write_bytes(b"weights")
    return file


@pytest.mark.parametrize("flip", [False, True])
def test_threshold_accepts_the_pairs_that_of_all_pairs_accepts(embedder, source, flip):
    view = "image and mirror image" if flip else "one image"
    found = evaluation.calibrate(embedder, source, 0.02, flip=flip)
    images = source.read(np.arange(len(source)))
    rows = patches(images) + flip * patches(images[:, :, ::-1])
    positive, negative = evaluation.all_pair_scores(rows, source.labels)
    (point,) = ROC.of(positive, negative).points([0.02])
    # 33 of 1,650 negatives: 0.02 of them to the digit.
    assert np.count_nonzero(negative > found.threshold) == 33
    assert np.mean(positive > found.threshold) == found.tpr == point.tpr
    # Half way between two scores: no pair is decided by rounding.
    scores = np.concatenate([positive, negative])
    higher = scores[scores > point.threshold].min()
    assert found.threshold == pytest.approx((point.threshold + higher) / 2, abs=1e-7)
    assert found.interval[0] <= found.threshold <= found.interval[1]
    assert (found.pairs, found.source, found.view) == (1650, source.name, view)
    assert found.flip == flip
    text = found.text()
    assert f"threshold {found.threshold:.4f} [" in text and "for FPR 2e-2" in text
    assert text.endswith(f"1,650 negative pairs, each embedding of {view}")


def test_survives_the_card_and_leaves_the_rest_of_it(embedder, source, model):
    found = evaluation.calibrate(embedder, source, 0.02)
    card = model.with_name("card.json")
    other = {"fpr": 0.5, "threshold": 0.1}
    card.write_text(json.dumps({"name": "s", "calibration": {"a.onnx": other}}))
    assert evaluation.read_calibration(model) is None
    assert evaluation.write_calibration(model, found) == card
    written = json.loads(card.read_text())
    assert written["name"] == "s"
    assert written["calibration"].keys() == {"a.onnx", "model.tflite"}
    assert written["calibration"]["a.onnx"] == other
    assert written["calibration"]["model.tflite"]["view"] == "one image"
    assert evaluation.read_calibration(model) == found
    # An editor's byte-order mark is skipped.
    card.write_bytes(b"\xef\xbb\xbf" + card.read_bytes())
    assert evaluation.read_calibration(model) == found
    # A model trained on has lost its threshold.
    model.write_bytes(b"other weights")
    refused("of another model.tflite, which has", evaluation.read_calibration, model)
    # One network has the same saved_model.pb whatever its weights.
    graph, weights = model.parent / "saved_model.pb", model.parent / "variables" / "x"
    put(graph, b"graph")
    put(weights, b"weights")
    evaluation.write_calibration(graph, found)
    assert evaluation.read_calibration(graph) == found
    weights.write_bytes(b"others!")
    words = "of another saved_model.pb, which has changed"
    refused(words, evaluation.read_calibration, graph)


def test_rejects_what_gives_no_threshold(embedder, source):
    plain = evaluation.SourceEmbedder(patches, 32, traceable=False, flip=False)
    for model, fpr, options, words in (
        (embedder, 1e-4, {}, "fpr=1e-4` takes 100,000 pairs.*: ask for"),
        (embedder, 0.0, {}, r"`calibrate_fpr` must be in \(0, 1\)"),
        (plain, 0.02, {"flip": True}, "`flip` needs an embedder of mirror images"),
    ):
        refused(words, evaluation.calibrate, model, source, fpr, **options)


def test_the_fpr_that_is_advised_is_taken():
    for people in (5, 7, 11, 12, 29, 48, 83):
        source = types.SimpleNamespace(labels=np.repeat(np.arange(people), 2))
        words = "ask for (.*) or more"
        text = refused(words, evaluation.check_calibration, source, 1e-9)
        advised = float(re.search(words, text)[1])
        evaluation.check_calibration(source, advised)
        # And no more than a tenth above the least there is.
        assert advised <= 1.1 * 10 / (2 * people * (people - 1))
    # None is advised where none would do.
    source = types.SimpleNamespace(labels=np.array([0, 0, 0, 0, 1, 1]))
    refused("there are 8: give images", evaluation.check_calibration, source, 0.5)


def test_tells_another_precision_from_another_model(embedder, source):
    for function, one in (
        (lambda images: np.round(patches(images) / 8) * 8, True),
        (lambda images: patches(images)[:, ::-1] * np.arange(-24, 24), False),
        (lambda images: np.tile(patches(images), 2), False),
    ):
        other = evaluation.SourceEmbedder(function, 32, traceable=False, flip=False)
        assert evaluation.is_of_one_model(embedder, other, source) == one


def test_says_what_is_wrong_with_a_card(model):
    part = {"fpr": 1, "sha256": hashlib.sha256(b"weights").hexdigest()}
    nothing = {**part, "threshold": None, "tpr": 0.5, "interval": None}
    unread = "calibration in .* cannot be read"
    cards = [("{", "cannot be read as a model card"), ("[]", "must hold a JSON object")]
    cards += [('{"calibration": null}', unread)]
    for entry in (part, nothing, 5):
        cards += [(json.dumps({"calibration": {"model.tflite": entry}}), unread)]
    for text, words in cards:
        model.with_name("card.json").write_text(text)
        refused(words, evaluation.read_calibration, model)
