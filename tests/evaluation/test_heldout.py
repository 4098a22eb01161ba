import json

import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.data import SyntheticFaces
from ekd_tf.evaluation import HeldoutEvaluation
from ekd_tf.evaluation import embed
from ekd_tf.evaluation import verify


class Projection:
    """Embeds by a fixed random projection of blurred pixels; counts its calls."""

    def __init__(self, dim, seed, size=32):
        kernel = np.random.default_rng(seed).normal(size=(8 * 8 * 3, dim))
        self.kernel = tf.constant(kernel, tf.float32)
        self.size = size
        self.calls = 0

    def __call__(self, images):
        assert images.shape[1] == self.size
        self.calls += 1
        small = tf.image.resize(tf.cast(images, tf.float32), [8, 8], method="area")
        small -= tf.reduce_mean(small, axis=[1, 2, 3], keepdims=True)
        return tf.reshape(small, [-1, 8 * 8 * 3]) @ self.kernel


@pytest.fixture(scope="module")
def source():
    return SyntheticFaces(identities=12, images_per_identity=5, size=32)


def test_reports_what_verify_measures(source):
    model = Projection(16, 0)
    result = HeldoutEvaluation(source, model, 32, batch_size=16)()
    images = source.read(np.arange(60))
    assert result.student == verify(embed(model, [images]), source.labels)
    assert result.teacher is None and result.gap is None
    scalars = result.scalars()
    assert scalars["heldout/accuracy"] == result.student.accuracy_mean
    assert scalars["heldout/tpr_at_fpr_1e-2"] == result.student.tpr[1e-2]
    # 12 * 5 images: 1,650 negatives, of which FPR 1e-3 allows one.
    assert "heldout/tpr_at_fpr_1e-3" not in scalars


def test_the_gap_is_the_difference_of_both(source):
    result = HeldoutEvaluation(
        source, Projection(4, 0), 32, teacher=Projection(64, 1), batch_size=16
    )()
    for fpr in ("1e-1", "1e-2"):
        expected = result.teacher.tpr[float(fpr)] - result.student.tpr[float(fpr)]
        assert result.scalars()[f"heldout/gap_at_fpr_{fpr}"] == pytest.approx(expected)
    assert set(result.curves) == {"teacher", "student"}


def test_embeds_the_teacher_once(source):
    teacher = Projection(16, 1)
    evaluation = HeldoutEvaluation(source, Projection(16, 0), 32, teacher=teacher)
    evaluation()
    calls = teacher.calls
    evaluation()
    assert teacher.calls == calls > 0


def test_sees_the_student_as_it_is_at_each_call(source):
    kernel = tf.Variable(
        np.random.default_rng(0).normal(size=(192, 8)), dtype="float32"
    )
    model = Projection(8, 0)
    model.kernel = kernel
    evaluation = HeldoutEvaluation(source, model, 32)
    first = evaluation().student.auc
    kernel.assign(np.random.default_rng(5).normal(size=(192, 8)))
    assert evaluation().student.auc != first


def test_teacher_may_take_images_of_another_size(source):
    evaluation = HeldoutEvaluation(
        source,
        Projection(8, 0),
        32,
        teacher=Projection(8, 1, size=48),
        teacher_size=48,
    )
    assert evaluation().gap is not None


def test_writes_report_and_pictures(source, tmp_path):
    result = HeldoutEvaluation(source, Projection(8, 0), 32)(plots=tmp_path)
    result.write(tmp_path)
    report = json.loads((tmp_path / "heldout.json").read_text())
    assert report["student"]["accuracy_mean"] == result.student.accuracy_mean
    for name in ("roc.png", "similarities.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert {image.dtype for image in result.images.values()} == {np.dtype("uint8")}


def test_text_has_both_models_the_gap_and_what_is_not_measurable(source):
    text = HeldoutEvaluation(
        source, Projection(4, 0), 32, teacher=Projection(64, 1)
    )().text()
    for words in ("| teacher |", "| student |", "gap", "1e-4 is not measurable"):
        assert words in text
