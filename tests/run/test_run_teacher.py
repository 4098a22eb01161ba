"""Tests for `ekd_tf.run.teacher`: online and cached teachers give the same rows."""

import json
import re
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from eager import op_by_op
from pictures import write_people
from PIL import Image
from refusals import refused
from toys import SIZE
from toys import CosineGap
from toys import backbone
from toys import unit

from ekd_tf import data
from ekd_tf import embedders
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.run import evaluators
from ekd_tf.run import teacher as run_teacher
from ekd_tf.run.teacher import open_run_teacher
from ekd_tf.training.distiller import Distiller
from ekd_tf.training.loop import compile_step
from ekd_tf.training.strategy import distribute

# All but what several replicas do, which is traced.
pytestmark = pytest.mark.usefixtures("module_op_by_op")
# A side the student's images are resized from; the teacher takes them as they are.
LARGE = 24
DIM = 8


def matrix(size):
    return np.random.default_rng(3).normal(size=(size * size * 3, DIM)) / 255


def write_saved_model(path, size):
    """A SavedModel that embeds by a fixed matrix, which it holds as a variable."""
    module = tf.Module()
    module.weights = tf.Variable(matrix(size).astype(np.float32))

    def embed(images):
        rows = tf.reshape(tf.cast(images, tf.float32), [-1, size * size * 3])
        return {"embedding": rows @ module.weights}

    module.call = tf.function(embed, [tf.TensorSpec((None, size, size, 3), tf.uint8)])
    tf.saved_model.save(module, str(path), signatures=module.call)


class Untraceable(embedders.FrozenEmbedder):
    """The same model outside of TensorFlow, as an ONNX session is."""

    fingerprint = name = "untraceable"

    def __init__(self, size):
        self.input_size, self.embedding_dim = size, DIM
        self._matrix = matrix(size).astype(np.float32)

    def __call__(self, images):
        assert isinstance(images, (np.ndarray, tf.Tensor)) and len(images)
        flat = np.asarray(images).reshape(len(images), -1)
        return flat.astype(np.float32) @ self._matrix


def write_faces(root, people=6, seed=0):
    return data.FolderFaces(write_people(root, people, each=4, side=LARGE, seed=seed))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("run_teacher")
    for size in (SIZE, LARGE):
        write_saved_model(root / f"model{size}", size)
    return root


@pytest.fixture(scope="module")
def large(root):
    return str(root / f"model{LARGE}")


@pytest.fixture(scope="module")
def faces(root):
    return write_faces(root / "faces")


def write_cache(folder, model, source, flip=True, drawn=None, augment=None, **options):
    teacher = embedders.open_embedder(model)
    note = embedders.describe_cache(
        teacher, source, model, source.name, "float32", flip, drawn, augment
    )
    writer = embedders.CacheWriter(folder, note)
    run_teacher.write_cache(writer, teacher, source, flip, drawn, augment, **options)
    return f"cache:{folder}"


@pytest.fixture(scope="module")
def caches(root, faces):
    return {
        size: write_cache(root / f"cache{size}", str(root / f"model{size}"), faces)
        for size in (SIZE, LARGE)
    }


@pytest.fixture
def make_teacher(root, faces, caches, monkeypatch):
    """Returns `(kind, size) -> teacher` of `faces`."""

    def make(kind, size=LARGE):
        if kind == "cache":
            return open_run_teacher(caches[size], faces, True)
        if kind == "untraceable":
            opened = Untraceable(size)
            monkeypatch.setattr(run_teacher, "open_embedder", lambda _: opened)
        teacher = open_run_teacher(str(root / f"model{size}"), None, True)
        assert (teacher.in_step is None) == (kind == "untraceable")
        return teacher

    return make


def pipeline_of(teacher, source, steps=3, **arguments):
    sampler = data.BatchSampler(source.labels, 4, 2, 2, seed=1)
    size = teacher.image_size(SIZE)
    arguments = {"seed": 5, "steps": steps, "views": teacher.views, **arguments}
    return data.make_pipeline(source, sampler, SIZE, teacher_size=size, **arguments)


def batches(teacher, source, **arguments):
    dataset = teacher.attach(pipeline_of(teacher, source, **arguments).dataset)
    return list(dataset.as_numpy_iterator())


def check_rows(batches, source):
    """Compares with the rows of what the student sees, from the files themselves."""
    for batch in batches:
        images = []
        for index, flipped in zip(batch["image_id"], batch["flipped"]):
            image = np.asarray(Image.open(source.describe(int(index))))
            images.append(image[:, ::-1] if flipped else image)
        expected = np.reshape(images, [len(images), -1]) @ matrix(LARGE)
        np.testing.assert_allclose(batch["teacher"], expected, atol=1e-4)


def train(teacher, source, strategy=None, **arguments):
    """Returns the student's weights after some steps."""
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        student = backbone(dim=DIM, batch_norm=False)
        model = Distiller(student, teacher.in_step, {"gap": (CosineGap(), 1.0)})
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9))
    pipeline = pipeline_of(teacher, source, steps=8, **arguments)
    step = compile_step(model, strategy)
    start = student.get_weights()
    with op_by_op(strategy.num_replicas_in_sync == 1):
        for batch in distribute(strategy, pipeline.dataset, teacher.attach):
            step(batch)
    moved = [np.abs(a - b).max() for a, b in zip(start, student.get_weights())]
    assert max(moved) > 1e-2
    return student.get_weights()


def test_cache_and_teacher_train_alike_on_one_and_two_replicas(
    faces, two_replicas, make_teacher
):
    one = tf.distribute.get_strategy()
    for size, strategy, atol, kinds in (
        (SIZE, one, 1e-5, ["traced"]),
        (LARGE, two_replicas, 1e-4, ["traced", "cache"]),
    ):
        expected = train(make_teacher("cache", size), faces)
        for kind in kinds:
            with strategy.scope():
                teacher = make_teacher(kind, size)
            for found, weights in zip(train(teacher, faces, strategy), expected):
                np.testing.assert_allclose(found, weights, atol=atol)


@pytest.mark.parametrize("kind", ["untraceable", "cache"])
def test_rows_are_those_of_the_view_the_student_sees(faces, make_teacher, kind):
    teacher = make_teacher(kind)
    found = batches(teacher, faces)
    check_rows(found, faces)
    for batch in found:
        assert batch["image"].shape == (8, SIZE, SIZE, 3)
        assert "teacher_image" not in batch
        assert batch["teacher"].dtype == np.float32
    assert {0, 1} == {int(flipped) for batch in found for flipped in batch["flipped"]}
    check_rows(batches(teacher, faces, flip=False), faces)


class Blank(Untraceable):
    """A model that has no embedding of anybody."""

    def __call__(self, images):
        return super().__call__(images) * np.nan


def test_a_row_that_is_none_is_named_by_its_image_and_teacher(faces, large, tmp_path):
    blank = Blank(LARGE)
    note = embedders.describe_cache(blank, faces, "blank", faces.name)
    writer = embedders.CacheWriter(tmp_path / "blank", note)
    words = "by untraceable are not finite: 24 of them, the first of image 0, "
    words += re.escape(faces.describe(0))
    refused(words, run_teacher.write_cache, writer, blank, faces)
    spec = write_cache(tmp_path / "cache", large, faces)
    path = tmp_path / "cache" / "embeddings.bin"
    np.memmap(path, np.float32, "r+", shape=(len(faces), 2, DIM))[5] = 0
    note = json.loads((tmp_path / "cache" / "cache.json").read_text())
    note["checksums"]["embeddings.bin"]["crc32"] = zlib.crc32(path.read_bytes())
    (tmp_path / "cache" / "cache.json").write_text(json.dumps(note))
    teacher = open_run_teacher(spec, faces, True)
    words = f"by {large} in {spec} have zero norm: 1 of them, the first of image 5, "
    words += re.escape(faces.describe(5))
    refused(words, teacher, faces)
    refused(words, teacher.some, faces, np.array([3, 5]))
    refused(words, lambda: teacher.centres)


def test_identities_of_joined_sources_share_the_cache_of_all(faces, large, tmp_path):
    both = data.JoinedSources([faces, write_faces(tmp_path / "others", 3, seed=9)])
    spec = write_cache(tmp_path / "cache", large, both)
    train, _ = data.split_identities(both, 3, seed=1)
    teacher = open_run_teacher(spec, train, True)
    found = batches(teacher, train, steps=6)
    check_rows(found, train)
    names = [train.describe(int(i)) for batch in found for i in batch["image_id"]]
    assert {"others" in name for name in names} == {True, False}
    # Each training label has the centre of its own images.
    rows = unit(teacher.embedder_of(train).rows.astype(np.float64))
    _, positions, _ = train.origin()
    assert len(teacher.centres) == train.num_identities == 6
    for label, centre in enumerate(teacher.centres):
        expected = rows[positions[train.labels == label]].mean(axis=(0, 1))
        np.testing.assert_allclose(centre, expected, atol=1e-6)
    refused("must be of the images of --data", open_run_teacher, spec, faces, True)


@pytest.mark.parametrize("kind", ["untraceable", "cache"])
def test_a_replacement_has_the_row_of_its_own(large, make_teacher, tmp_path, kind):
    faces = write_faces(tmp_path / "faces")
    (tmp_path / "faces" / "p2" / "1.png").write_bytes(b"no image")
    faces = data.FolderFaces(tmp_path / "faces")
    if kind == "cache":
        spec = write_cache(tmp_path / "cache", large, faces, unreadable=Unreadable(1))
        teacher = open_run_teacher(spec, faces, True)
        # The row in its own place is that of the next image too.
        rows = teacher.embedder_of(faces).rows
        np.testing.assert_allclose(rows[9], rows[10], atol=1e-6)
    else:
        teacher = make_teacher(kind)
    unreadable = Unreadable(1)
    # This opens the image that is named: never the bad one.
    check_rows(batches(teacher, faces, steps=6, unreadable=unreadable), faces)
    (line,) = unreadable.lines
    assert line.startswith(faces.describe(9))


def test_warns_once_that_rows_follow_no_augmentation(
    faces, caches, make_teacher, warnings_logged
):
    batches(make_teacher("cache", SIZE), faces)
    augmentation = data.Augmentation(brightness=0.5)
    batches(make_teacher("traced", SIZE), faces, augmentation=augmentation)
    assert not [text for text in warnings_logged if "augment" in text]
    open_run_teacher(caches[SIZE], faces, True, data.Augmentation(crop=2), 2 * SIZE)
    (text,) = [text for text in warnings_logged if "augment" in text]
    assert "do not follow --augment" in text and "--augment=crop:1 writes" in text


def test_a_run_that_flips_needs_rows_of_mirror_images(faces, large, tmp_path):
    spec = write_cache(tmp_path, large, faces, flip=False)
    words = "no rows of mirror images: train with --nof"
    refused(words, open_run_teacher, spec, faces, flip=True)
    teacher = open_run_teacher(spec, faces, flip=False)
    check_rows(batches(teacher, faces, flip=False), faces)


DRAWN = data.DrawnViews(3, seed=7)
# At the side of the teacher; at the student's, half as many pixels.
DRAWN_AUGMENT = data.Augmentation(crop=4, brightness=0.2, low_resolution=0.5)
STUDENTS = DRAWN_AUGMENT.resized(LARGE, SIZE)


@pytest.fixture(scope="module")
def drawn_cache(root, faces, large):
    folder = root / "drawn"
    return write_cache(folder, large, faces, drawn=DRAWN, augment=DRAWN_AUGMENT)


def test_rows_of_drawn_views_are_the_teachers(faces, drawn_cache, make_teacher):
    cached = open_run_teacher(drawn_cache, faces, True, STUDENTS, SIZE)
    assert cached.views == DRAWN
    teacher = make_teacher("untraceable")
    found = batches(cached, faces, augmentation=STUDENTS)
    expected = batches(teacher, faces, augmentation=STUDENTS, views=DRAWN)
    for one, other in zip(found, expected):
        np.testing.assert_allclose(one["teacher"], other["teacher"], atol=1e-4)


def test_drawn_views_belong_to_images_and_not_to_places(faces, large, drawn_cache):
    train_faces, heldout = data.split_identities(faces, 2, seed=1)
    teacher = open_run_teacher(drawn_cache, train_faces, True, STUDENTS, SIZE)
    _, positions, _ = train_faces.origin()
    rows = teacher.embedder_of(train_faces).rows
    assert rows.shape == (24, 2 + 3, DIM)
    seen = {}
    for batch in batches(teacher, train_faces, steps=12, augmentation=STUDENTS):
        images = positions[batch["image_id"]]
        columns = (batch[name] for name in ("view", "teacher", "image"))
        for image, view, row, pixels in zip(images, *columns):
            np.testing.assert_array_equal(row, rows[image, 2 + view])
            first = seen.setdefault((image, view), pixels)
            np.testing.assert_array_equal(first, pixels)
    assert len({view for _, view in seen}) == 3
    # What is evaluated is the image and its mirror image.
    expected = evaluators.make_source_embedder(large)(heldout)
    found = teacher.embedder_of(heldout)(heldout)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_more_views_leave_the_first_as_they_are():
    # Of eight images, view by view.
    images, views = np.tile(np.arange(8), 4), np.repeat(np.arange(4), 8)
    flips, draws = data.DrawnViews(4, seed=7).draw(images, views)
    for found, of_more in zip(DRAWN.draw(images[:24], views[:24]), (flips, draws)):
        np.testing.assert_array_equal(found, of_more[:24])
    assert len(np.unique(draws, axis=0)) == 32


def test_a_run_must_draw_what_its_cache_has(faces, drawn_cache):
    message = "give --augment=crop:2.66667,brightness:0.2,low_resolution:0.5 and --flip"
    for augmentation, flip in (
        (STUDENTS, False),
        (data.Augmentation(), True),
        (DRAWN_AUGMENT, True),
    ):
        refused(message, open_run_teacher, drawn_cache, faces, flip, augmentation, SIZE)
