import json

import numpy as np
import pytest
import tensorflow as tf
from pictures import encode
from PIL import Image

from ekd_tf.data import PairSet
from ekd_tf.data import SyntheticFaces
from ekd_tf.data.pairs import PairImages
from ekd_tf.evaluation import LabelledEvaluation
from ekd_tf.evaluation import Models
from ekd_tf.evaluation import PairSetEvaluation
from ekd_tf.evaluation import Result
from ekd_tf.evaluation import SourceEmbedder
from ekd_tf.evaluation import measure_gap
from ekd_tf.evaluation import verify_embeddings
from ekd_tf.evaluation import verify_pairs

pytestmark = pytest.mark.usefixtures("module_op_by_op")
no_pictures = pytest.mark.usefixtures("no_pictures")


def embedder(dim, seed, size=32, **arguments):
    """Embeds by a fixed random projection of blurred pixels."""
    kernel = np.random.default_rng(seed).normal(size=(8 * 8 * 3, dim))

    def project(images):
        assert images.shape[1] == size
        small = tf.image.resize(tf.cast(images, tf.float32), [8, 8], method="area")
        small -= tf.reduce_mean(small, axis=[1, 2, 3], keepdims=True)
        return tf.reshape(small, [-1, 8 * 8 * 3]) @ kernel.astype(np.float32)

    return SourceEmbedder(project, size, batch_size=16, **arguments)


@pytest.fixture(scope="module")
def source():
    return SyntheticFaces(identities=12, images_per_identity=5, size=32)


@pytest.fixture(scope="module")
def result(source):
    # The teacher takes larger images.
    models = Models(embedder(4, 0), embedder(64, 1, size=48), embedder(3, 2))
    return LabelledEvaluation("faces", source, replicates=20)(models)


@no_pictures
def test_tells_how_far_the_embedding_and_each_pass_over_the_pairs_is(source):
    begun = []

    def progress(*what):
        begun.append([*what, 0])

        def done(number, line=begun[-1]):
            line[-1] += number

        return done

    models = Models(embedder(4, 0, progress=progress), embedder(8, 1))
    LabelledEvaluation("faces", source, replicates=5)(models)
    assert begun[0] == [source.name, 60, "images", 60]
    # Of each model two for the curve and one for the intervals, one for both.
    assert begun[1:] == [["all pairs", 1770, "pairs", 1770]] * 7


@no_pictures
def test_reports_what_verify_measures(source):
    result = LabelledEvaluation("faces", source)(Models(embedder(16, 0)))
    embeddings = embedder(16, 0)(source)
    assert result.student == verify_embeddings(embeddings, source.labels)
    assert result.reports.keys() == {"student"} and result.gap is None
    scalars = result.scalars()
    assert scalars["faces/accuracy"] == result.student.accuracy_mean
    assert scalars["faces/tpr_at_fpr_1e-2"] == result.student.tpr[1e-2]
    # 12 * 5 images: 1,650 negatives, of which FPR 1e-3 allows one.
    assert "faces/tpr_at_fpr_1e-3" not in scalars


def test_reports_the_gap_that_compare_measures(source, result):
    *both, baseline = (embedder(*m)(source) for m in ((4, 0), (64, 1, 48), (3, 2)))
    arguments = {"worst": 10, "baseline_embeddings": baseline}
    expected = measure_gap(*both, source.labels, **arguments)
    assert result.gap == expected
    scalars, of_teacher = result.scalars(), result.scalars("teacher")
    for point, name in zip(expected.points, ("1e-1", "1e-2")):
        assert scalars[f"faces/gap_at_fpr_{name}"] == point.gap
        assert scalars[f"faces/closed_at_fpr_{name}"] == point.closed
        assert of_teacher[f"faces/tpr_at_fpr_{name}"] == point.teacher_tpr
    assert not any("gap" in name for name in of_teacher)
    assert set(result.reports) == {"teacher", "student", "baseline"}


def test_writes_report_and_pictures(result, tmp_path):
    result.write(tmp_path / "new")
    report = json.loads((tmp_path / "new" / "faces.json").read_text())
    assert report["view"] == "image and mirror image"
    assert report["student"]["accuracy_mean"] == result.student.accuracy_mean
    assert report["gap"]["points"]["1e-1"]["closed"] is not None
    for name in ("roc", "similarities", "critical"):
        with Image.open(tmp_path / "new" / f"faces_{name}.png") as image:
            np.testing.assert_array_equal(image, result.images[f"faces/{name}"])
    low, high = result.student.intervals["tpr_at_fpr_1e-1"]
    for words in (
        *("| teacher ", "| student ", "| baseline ", "closed"),
        f"{result.student.tpr[0.1]:.4f} [{low:.4f}, {high:.4f}]",
        "All 120 positive and 1,650 negative pairs",
        "Embeddings of image and mirror image.",
        "1e-4 is not measurable",
    ):
        assert words in result.text


def test_a_report_lists_what_is_left_out_and_shows_pictures_by_their_files(tmp_path):
    # Brackets and spaces would end a Markdown link.
    name, left_out = "lfw (view 1)", ("a.png: damaged",)
    result = Result(name, {}, {}, {"figure": 1}, "", {f"{name}/roc": None}, left_out)
    assert result.section() == (
        "## lfw (view 1)\n\n\n\n1 images cannot be read and are left out:\n\n"
        "- a.png: damaged\n\n![lfw (view 1)/roc](lfw%20%28view%201%29_roc.png)\n"
    )
    Result("x", {}, {}, {"figure": 1}, "", {}, left_out).write(tmp_path)
    report = json.loads((tmp_path / "x.json").read_text())
    assert report == {"figure": 1, "left_out": ["a.png: damaged"]}


def evaluate(pairs, *arguments, flip=True, **options):
    model = embedder(16, 0, flip=flip)
    return PairSetEvaluation(pairs, *arguments, **options)(Models(model, model))


@pytest.fixture(scope="module")
def pairs():
    """Forty pairs, every second one of one identity."""
    source = SyntheticFaces(identities=40, images_per_identity=2, size=32)
    same = np.arange(40) % 2 == 0
    left = 2 * np.arange(40)
    right = np.where(same, left + 1, (left + 2) % 80)
    images = source.read(np.stack([left, right], axis=1).reshape(-1))
    files = [encode(Image.fromarray(image)) for image in images]
    return PairSet("toy", PairImages("toy.bin", files), same)


def test_reports_pairs_with_and_without_flip(pairs, tmp_path):
    result = evaluate(pairs, "other", (0.5, 1e-3), replicates=20)
    views = embedder(16, 0).views(pairs.images)
    result.write(tmp_path)
    document = json.loads((tmp_path / "other.json").read_text())
    assert document["teacher"] == document["student"]
    for kind, rows in (("flip", views.sum(axis=1)), ("plain", views[:, 0])):
        expected = verify_pairs(rows, pairs.issame, (0.5,), replicates=0)
        found = document["student"][kind]
        assert found["accuracy_mean"] == pytest.approx(expected.accuracy_mean)
        assert found["tpr"]["5e-1"] == pytest.approx(expected.tpr[0.5])
        low, high = found["intervals"]["accuracy"]
        assert low <= found["accuracy_mean"] <= high
    flip, plain = (document["student"][k] for k in ("flip", "plain"))
    assert flip["threshold"] == result.student.threshold != plain["threshold"]
    assert result.scalars()["other/accuracy"] == flip["accuracy_mean"]
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert pictures == {"other_roc.png", "other_similarities.png"}
    for words in (
        *("| teacher, with flip ", "20 negative pairs"),
        "FPR 1e-3 is not measurable: it takes 10000 negative pairs",
    ):
        assert words in result.text


def test_figures_kept_of_pairs_sorted_by_kind_do_not_come_back(pairs):
    def kind(same):
        found = PairSetEvaluation(PairSet("toy", pairs.images, same)).fingerprint
        return found.partition(pairs.images.fingerprint)[0]

    # The words older figures are kept by.
    assert kind(np.arange(40) % 2 == 0) == "pairs "
    assert kind(np.arange(40) < 20) == "stratified pairs "


@no_pictures
def test_says_how_pairs_were_cut_and_why_there_are_no_intervals(pairs):
    order = np.argsort(~pairs.issame, kind="stable")
    rows = np.ravel([2 * order, 2 * order + 1], "F")
    images = PairImages("toy.bin", pairs.images.read(rows))
    by_kind = PairSet("toy", images, pairs.issame[order])
    few = PairSet("few", pairs.images, np.arange(40) < 9)
    for found, cut, intervals in (
        (pairs, False, True),
        (by_kind, True, True),
        (few, True, False),
    ):
        result = evaluate(found, flip=False, replicates=20)
        # No mirror images, one report.
        assert result.document["student"].keys() == {"plain"}
        assert "without flip" in result.text
        assert ("each kind cut by itself" in result.text) == cut
        words = "No interval of TPR, AUC and EER: a kind has fewer pairs than there are"
        assert (f"{words} folds." in result.text) != intervals


@pytest.mark.slow
@pytest.mark.realdata
def test_a_published_teacher_reaches_its_accuracy(realdata):
    from ekd_tf.data import read_pairs
    from ekd_tf.run import evaluators

    pairs = read_pairs(realdata / "lfw" / "lfw_view1_test.bin")
    teacher = str(realdata / "teacher" / "mobilefacenet_y1.onnx")
    model = evaluators.make_source_embedder(teacher, flip=False)
    report = PairSetEvaluation(pairs)(Models(model)).student
    assert (report.num_pairs, report.accuracy_best) == (1000, 0.99)
    # Its pairs are 500 positives and then 500 negatives.
    assert report.stratified and 0.98 <= report.accuracy_mean <= 0.99
