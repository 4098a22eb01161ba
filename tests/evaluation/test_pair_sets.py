import io
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from ekd_tf.data import PairSet
from ekd_tf.data import SyntheticFaces
from ekd_tf.data.pairs import PairImages
from ekd_tf.evaluation import Models
from ekd_tf.evaluation import PairSetEvaluation
from ekd_tf.evaluation import SourceEmbedder
from ekd_tf.evaluation import verify_pairs


def mean_of_patches(images):
    """Embeds by left-right asymmetric sums, so that a mirror image differs."""
    small = tf.image.resize(tf.cast(images, tf.float32), [4, 4], method="area")
    weights = tf.range(1.0, 5.0)[None, None, :, None]
    centred = small - tf.reduce_mean(small, axis=[1, 2, 3], keepdims=True)
    return tf.reshape(centred * weights, [-1, 48])


@pytest.fixture(scope="module")
def faces():
    """Images of 40 pairs, every second one of one identity."""
    source = SyntheticFaces(identities=40, images_per_identity=2, size=32)
    same = np.arange(40) % 2 == 0
    left = 2 * np.arange(40)
    right = np.where(same, left + 1, (left + 2) % 80)
    return source.read(np.stack([left, right], axis=1).reshape(-1)), same


@pytest.fixture(scope="module")
def pairs(faces):
    images, same = faces
    encoded = []
    for image in images:
        png = io.BytesIO()
        Image.fromarray(image).save(png, format="PNG")
        encoded.append(png.getvalue())
    return PairSet("toy", PairImages("toy.bin", encoded), same)


def test_reports_with_and_without_flip(faces, pairs):
    images, same = faces
    model = SourceEmbedder(mean_of_patches, 32, batch_size=32)
    result = PairSetEvaluation(pairs, fprs=(0.5,))(Models(model))
    original = mean_of_patches(images).numpy()
    mirrored = mean_of_patches(images[:, :, ::-1]).numpy()
    for kind, rows in (("flip", original + mirrored), ("plain", original)):
        expected = verify_pairs(rows, same, (0.5,), replicates=0)
        found = result.document["student"][kind]
        assert found["accuracy_mean"] == pytest.approx(expected.accuracy_mean)
        assert found["tpr"]["5e-1"] == pytest.approx(expected.tpr[0.5])
    flip, plain = (result.document["student"][k] for k in ("flip", "plain"))
    assert flip["threshold"] == result.student.threshold != plain["threshold"]
    assert result.scalars()["toy/accuracy"] == flip["accuracy_mean"]
    fpr, tpr = result.curves["student"]
    assert tpr[fpr <= 0.5].max() == flip["tpr"]["5e-1"]


def test_compares_models_and_writes(pairs, tmp_path):
    model = SourceEmbedder(mean_of_patches, 32)
    result = PairSetEvaluation(pairs, "other", (0.5, 1e-3), replicates=20)(
        Models(model, model)
    )
    result.write(tmp_path)
    report = json.loads((tmp_path / "other.json").read_text())
    assert report["teacher"] == report["student"]
    low, high = report["student"]["flip"]["intervals"]["accuracy"]
    assert low <= report["student"]["flip"]["accuracy_mean"] <= high
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "other_roc.png",
        "other_similarities.png",
    }
    text = result.text
    assert "| teacher, with flip " in text and "20 negative pairs" in text
    assert "FPR 1e-3 is not measurable: it takes 10000 negative pairs" in text


def test_figures_kept_of_pairs_sorted_by_kind_do_not_come_back(pairs):
    def kind(same):
        found = PairSetEvaluation(PairSet("toy", pairs.images, same)).fingerprint
        return found.partition(pairs.images.fingerprint)[0]

    # The words older figures are kept by.
    assert kind(np.arange(40) % 2 == 0) == "pairs "
    assert kind(np.arange(40) < 20) == "stratified pairs "


@pytest.mark.parametrize("positives_first", [False, True])
def test_says_how_pairs_sorted_by_kind_were_cut(faces, pairs, positives_first):
    order = np.argsort(~faces[1], kind="stable") if positives_first else np.arange(40)
    images = [
        pairs.images.read([k])[0] for k in np.ravel([2 * order, 2 * order + 1], "F")
    ]
    model = SourceEmbedder(mean_of_patches, 32, flip=False)
    result = PairSetEvaluation(
        PairSet("toy", PairImages("toy.bin", images), faces[1][order]), replicates=20
    )(Models(model))
    # No mirror images, one report.
    assert result.document["student"].keys() == {"plain"}
    assert "without flip" in result.text
    assert ("each kind cut by itself" in result.text) == positives_first
    assert "No interval" not in result.text


def test_says_why_there_are_no_intervals(pairs):
    few = PairSet("few", pairs.images, np.arange(40) < 9)
    result = PairSetEvaluation(few, replicates=20)(
        Models(SourceEmbedder(mean_of_patches, 32))
    )
    assert (
        "No interval of TPR, AUC and EER: a kind has fewer pairs than there are folds."
        in result.text
    )


@pytest.mark.slow
@pytest.mark.realdata
def test_a_published_teacher_reaches_its_accuracy(realdata):
    from ekd_tf.data import read_pairs
    from ekd_tf.run import evaluators

    pairs = read_pairs(realdata / "lfw" / "lfw_view1_test.bin")
    model = evaluators.make_source_embedder(
        str(realdata / "teacher" / "mobilefacenet_y1.onnx"), flip=False
    )
    result = PairSetEvaluation(pairs)(Models(model))
    report = result.student
    assert (report.num_pairs, report.accuracy_best) == (1000, 0.99)
    # Its pairs are 500 positives and then 500 negatives.
    assert report.stratified and 0.98 <= report.accuracy_mean <= 0.99
