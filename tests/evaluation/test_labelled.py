import json

import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.data import SyntheticFaces
from ekd_tf.evaluation import Embedder
from ekd_tf.evaluation import LabelledEvaluation
from ekd_tf.evaluation import Models
from ekd_tf.evaluation import SourceEmbedder
from ekd_tf.evaluation import compare
from ekd_tf.evaluation import verify_embeddings


class Projection:
    """Embeds by a fixed random projection of blurred pixels."""

    def __init__(self, dim, seed, size=32):
        kernel = np.random.default_rng(seed).normal(size=(8 * 8 * 3, dim))
        self.kernel = tf.constant(kernel, tf.float32)
        self.size = size

    def __call__(self, images):
        assert images.shape[1] == self.size
        small = tf.image.resize(tf.cast(images, tf.float32), [8, 8], method="area")
        small -= tf.reduce_mean(small, axis=[1, 2, 3], keepdims=True)
        return tf.reshape(small, [-1, 8 * 8 * 3]) @ self.kernel


def embedder(dim, seed, size=32, **arguments):
    return SourceEmbedder(Projection(dim, seed, size), size, batch_size=16, **arguments)


@pytest.fixture(scope="module")
def source():
    return SyntheticFaces(identities=12, images_per_identity=5, size=32)


@pytest.fixture(scope="module")
def result(source):
    models = Models(embedder(4, 0), embedder(64, 1), embedder(3, 2))
    return LabelledEvaluation("faces", source)(models)


def test_reports_what_verify_measures(source):
    result = LabelledEvaluation("faces", source)(Models(embedder(16, 0)))
    images = source.read(np.arange(60))
    assert result.student == verify_embeddings(
        Embedder(Projection(16, 0))([images]), source.labels
    )
    assert result.reports.keys() == {"student"} and result.gap is None
    scalars = result.scalars()
    assert scalars["faces/accuracy"] == result.student.accuracy_mean
    assert scalars["faces/tpr_at_fpr_1e-2"] == result.student.tpr[1e-2]
    # 12 * 5 images: 1,650 negatives, of which FPR 1e-3 allows one.
    assert "faces/tpr_at_fpr_1e-3" not in scalars


def test_reports_the_gap_that_compare_measures(source, result):
    images = source.read(np.arange(60))
    rows = [Embedder(Projection(*m))([images]) for m in ((4, 0), (64, 1), (3, 2))]
    expected = compare(*rows[:2], source.labels, worst=10, baseline_embeddings=rows[2])
    assert result.gap == expected
    for point in expected.points[:2]:
        name = {0.1: "1e-1", 0.01: "1e-2"}[point.fpr]
        assert result.scalars()[f"faces/gap_at_fpr_{name}"] == point.gap
        assert result.scalars()[f"faces/closed_at_fpr_{name}"] == point.closed
        assert result.scalars("teacher")[f"faces/tpr_at_fpr_{name}"] == (
            point.teacher_tpr
        )
    assert not any("gap" in name for name in result.scalars("teacher"))
    assert set(result.curves) == {"teacher", "student", "baseline"}


def test_intervals_come_on_request(source):
    # The teacher takes larger images.
    models = Models(embedder(8, 0), embedder(8, 1, size=48))
    result = LabelledEvaluation("faces", source, replicates=20)(models)
    assert result.gap is not None
    low, high = result.student.intervals["tpr_at_fpr_1e-1"]
    assert low <= result.student.tpr[0.1] <= high
    assert f"{result.student.tpr[0.1]:.4f} [{low:.4f}, {high:.4f}]" in result.text


def test_writes_report_and_pictures(result, tmp_path):
    result.write(tmp_path / "new")
    report = json.loads((tmp_path / "new" / "faces.json").read_text())
    assert report["view"] == "image and mirror image"
    assert report["student"]["accuracy_mean"] == result.student.accuracy_mean
    assert report["gap"]["points"]["1e-1"]["closed"] is not None
    for name in ("roc", "similarities", "critical"):
        png = tmp_path / "new" / f"faces_{name}.png"
        assert png.read_bytes().startswith(b"\x89PNG")


def test_text_has_all_models_the_gap_and_what_is_not_measurable(result):
    text = result.text
    for words in (
        "| teacher ",
        "| student ",
        "| baseline ",
        "closed",
        "All 120 positive and 1,650 negative pairs",
        "Embeddings of image and mirror image.",
        "1e-4 is not measurable",
    ):
        assert words in text
