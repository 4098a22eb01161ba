"""Tests for `ekd_tf.run.teacher`: online and cached teachers give the same rows."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import logging
from PIL import Image
from toys import SIZE
from toys import CosineGap
from toys import backbone

from ekd_tf.data import Augmentation
from ekd_tf.data import BatchSampler
from ekd_tf.data import DrawnViews
from ekd_tf.data import FolderFaces
from ekd_tf.data import JoinedSources
from ekd_tf.data import make_pipeline
from ekd_tf.data.source import split_identities
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.embedders import CacheWriter
from ekd_tf.embedders import FrozenEmbedder
from ekd_tf.embedders import describe_cache
from ekd_tf.embedders import open_embedder
from ekd_tf.run import evaluators
from ekd_tf.run import teacher as run_teacher
from ekd_tf.run.embedding import write_cache as write_cache_of
from ekd_tf.run.teacher import OnlineTeacher
from ekd_tf.run.teacher import open_run_teacher
from ekd_tf.training.distiller import Distiller
from ekd_tf.training.loop import compile_step
from ekd_tf.training.strategy import distribute

# A side the student's images are resized from; the teacher takes them as they are.
LARGE = 24
DIM = 8


def matrix(size):
    return np.random.default_rng(3).normal(size=(size * size * 3, DIM)) / 255


def write_saved_model(path, size):
    """A SavedModel that embeds by a fixed matrix, which it holds as a variable."""
    module = tf.Module()
    module.weights = tf.Variable(matrix(size).astype(np.float32))
    module.call = tf.function(
        lambda x: {
            "embedding": tf.reshape(tf.cast(x, tf.float32), [-1, size * size * 3])
            @ module.weights
        },
        [tf.TensorSpec((None, size, size, 3), tf.uint8)],
    )
    tf.saved_model.save(module, str(path), signatures=module.call)
    return str(path)


class Untraceable(FrozenEmbedder):
    """The same model outside of TensorFlow, as an ONNX session is."""

    fingerprint = name = "untraceable"

    def __init__(self, size):
        self.input_size, self.embedding_dim = size, DIM
        self._matrix = matrix(size).astype(np.float32)

    def __call__(self, images):
        assert isinstance(images, (np.ndarray, tf.Tensor)) and len(images)
        flat = np.asarray(images).reshape(len(images), -1)
        return flat.astype(np.float32) @ self._matrix


def write_faces(root, identities=6, seed=0, images=4):
    rng = np.random.default_rng(seed)
    for person in range(identities):
        (root / f"p{person}").mkdir(parents=True)
        for k in range(images):
            pixels = rng.integers(0, 256, (LARGE, LARGE, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / f"p{person}" / f"{k}.png")
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("run_teacher")
    write_faces(root / "faces")
    for size in (SIZE, LARGE):
        write_saved_model(root / f"model{size}", size)
    return root


def write_cache(folder, model, source, flip=True, drawn=None, augment=None, **options):
    teacher = open_embedder(model)
    note = describe_cache(
        teacher, source, model, source.name, "float32", flip, drawn, augment
    )
    writer = CacheWriter(folder, note)
    write_cache_of(writer, teacher, source, flip, drawn, augment, **options)
    return f"cache:{folder}"


@pytest.fixture(scope="module")
def faces(root):
    return FolderFaces(root / "faces")


@pytest.fixture(scope="module")
def caches(root, faces):
    return {
        size: write_cache(root / f"cache{size}", str(root / f"model{size}"), faces)
        for size in (SIZE, LARGE)
    }


def pipeline_of(teacher, source, steps=3, augmentation=None, **arguments):
    sampler = BatchSampler(source.labels, 4, 2, 2, seed=1)
    return make_pipeline(
        source,
        sampler,
        SIZE,
        seed=5,
        steps=steps,
        augmentation=augmentation,
        teacher_size=teacher.image_size(SIZE),
        **{"views": teacher.views, **arguments},
    )


def batches(teacher, source, **arguments):
    dataset = teacher.attach(pipeline_of(teacher, source, **arguments).dataset)
    return list(dataset.as_numpy_iterator())


def expected_rows(source, batch, size=LARGE):
    """The rows of what the student sees, from the files themselves."""
    rows = []
    for index, flipped in zip(batch["image_id"], batch["flipped"]):
        image = np.asarray(Image.open(source.describe(int(index))))
        rows.append(image[:, ::-1] if flipped else image)
    return np.reshape(rows, [len(rows), -1]) @ matrix(size)


def train(teacher, source, steps=20, strategy=None, **arguments):
    """Returns the student's weights after some steps."""
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        student = backbone(dim=DIM, batch_norm=False)
        losses = {"gap": (CosineGap(), 1.0)}
        model = Distiller(student, teacher.in_step, losses)
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9))
    dataset = distribute(
        strategy,
        pipeline_of(teacher, source, steps, **arguments).dataset,
        teacher.attach,
    )
    step = compile_step(model, strategy)
    start = student.get_weights()
    for batch in dataset:
        step(batch)
    moved = [np.abs(a - b).max() for a, b in zip(start, student.get_weights())]
    assert max(moved) > 1e-2
    return student.get_weights()


@pytest.fixture(scope="module")
def trained_from_cache(faces, caches):
    return {
        size: train(open_run_teacher(caches[size], faces, True), faces)
        for size in (SIZE, LARGE)
    }


def online(kind, root, size, monkeypatch):
    if kind == "untraceable":
        monkeypatch.setattr(run_teacher, "open_embedder", lambda _: Untraceable(size))
    teacher = open_run_teacher(str(root / f"model{size}"), None, True)
    assert (teacher.in_step is None) == (kind == "untraceable")
    return teacher


@pytest.mark.parametrize(
    ("kind", "size"), [("traced", SIZE), ("traced", LARGE), ("untraceable", LARGE)]
)
def test_the_cache_trains_like_the_teacher(
    root, faces, trained_from_cache, kind, size, monkeypatch
):
    weights = train(online(kind, root, size, monkeypatch), faces)
    for one, other in zip(weights, trained_from_cache[size]):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("kind", ["traced", "cache"])
def test_replicas_get_the_rows_of_their_images(
    root, faces, caches, trained_from_cache, two_replicas, kind, monkeypatch
):
    if kind == "cache":
        teacher = open_run_teacher(caches[LARGE], faces, True)
    else:
        with two_replicas.scope():
            teacher = online(kind, root, LARGE, monkeypatch)
    weights = train(teacher, faces, strategy=two_replicas)
    for one, other in zip(weights, trained_from_cache[LARGE]):
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("kind", ["untraceable", "cache"])
def test_rows_are_those_of_the_view_the_student_sees(
    root, faces, caches, kind, monkeypatch
):
    if kind == "cache":
        teacher = open_run_teacher(caches[LARGE], faces, True)
    else:
        teacher = online(kind, root, LARGE, monkeypatch)
    flips = []
    for batch in batches(teacher, faces):
        assert batch["image"].shape == (8, SIZE, SIZE, 3)
        assert "teacher_image" not in batch
        assert batch["teacher"].dtype == np.float32
        expected = expected_rows(faces, batch)
        np.testing.assert_allclose(batch["teacher"], expected, atol=1e-4)
        flips += list(batch["flipped"])
    assert 0 < sum(flips) < len(flips)
    for batch in batches(teacher, faces, flip=False):
        expected = expected_rows(faces, batch)
        np.testing.assert_allclose(batch["teacher"], expected, atol=1e-4)


def test_identities_held_out_share_the_cache_of_all(faces, caches):
    train, heldout = split_identities(faces, 2, seed=1)
    teacher = open_run_teacher(caches[LARGE], train, True)
    for batch in batches(teacher, train):
        expected = expected_rows(train, batch)
        np.testing.assert_allclose(batch["teacher"], expected, atol=1e-4)
    # Each training label has the centre of its own images.
    rows = teacher.embedder_of(train)._cache.rows
    _, positions, _ = train.origin()
    for label in range(train.num_identities):
        mine = rows[positions[train.labels == label]].astype(np.float64)
        units = mine / np.linalg.norm(mine, axis=2, keepdims=True)
        np.testing.assert_allclose(
            teacher.centres[label], units.mean(axis=(0, 1)), atol=1e-6
        )
    assert len(teacher.centres) == train.num_identities == 4


def test_evaluates_what_the_cache_holds_and_nothing_else(root, faces, caches, tmp_path):
    train, heldout = split_identities(faces, 2, seed=1)
    teacher = open_run_teacher(caches[LARGE], train, True)
    model = evaluators.make_source_embedder(str(root / f"model{LARGE}"))
    found = teacher.embedder_of(heldout)
    np.testing.assert_allclose(found(heldout), model(heldout), atol=1e-5)
    some = np.array([3, 0])
    np.testing.assert_allclose(
        found.some(heldout, some), model(heldout)[some], atol=1e-5
    )
    others = FolderFaces(write_faces(tmp_path / "others", 2, seed=9))
    assert teacher.embedder_of(others) is None
    assert OnlineTeacher(str(root / f"model{LARGE}")).embedder_of(others) is not None


def test_joined_sources_have_a_cache_in_common(root, faces, tmp_path):
    other = FolderFaces(write_faces(tmp_path / "others", 3, seed=9))
    both = JoinedSources([faces, other])
    spec = write_cache(tmp_path / "cache", str(root / f"model{LARGE}"), both)
    train, _ = split_identities(both, 3, seed=1)
    teacher = open_run_teacher(spec, train, True)
    seen = set()
    for batch in batches(teacher, train, steps=6):
        expected = expected_rows(train, batch)
        np.testing.assert_allclose(batch["teacher"], expected, atol=1e-4)
        seen |= {"others" in train.describe(int(i)) for i in batch["image_id"]}
    assert seen == {True, False}
    with pytest.raises(ValueError, match="must be of the images of --data"):
        open_run_teacher(spec, faces, True)


@pytest.mark.parametrize("kind", ["untraceable", "cache"])
def test_a_replaced_image_has_the_row_of_its_replacement(
    root, tmp_path, kind, monkeypatch
):
    faces = FolderFaces(write_faces(tmp_path / "faces"))
    (tmp_path / "faces" / "p2" / "1.png").write_bytes(b"no image")
    faces = FolderFaces(tmp_path / "faces")
    model = str(root / f"model{LARGE}")
    if kind == "cache":
        spec = write_cache(tmp_path / "cache", model, faces, unreadable=Unreadable(1))
        teacher = open_run_teacher(spec, faces, True)
        # The row in its own place is that of the next image too.
        rows = teacher.embedder_of(faces)._cache.rows
        np.testing.assert_allclose(rows[9], rows[10], atol=1e-6)
    else:
        teacher = online(kind, root, LARGE, monkeypatch)
    unreadable = Unreadable(1)
    pipeline = pipeline_of(teacher, faces, steps=6, unreadable=unreadable)
    for batch in teacher.attach(pipeline.dataset).as_numpy_iterator():
        # `expected_rows` opens the image that is named: never the bad one.
        expected = expected_rows(faces, batch)
        np.testing.assert_allclose(batch["teacher"], expected, atol=1e-4)
    (line,) = unreadable.lines
    assert line.startswith(faces.describe(9))


@pytest.fixture
def warned(monkeypatch):
    texts = []
    monkeypatch.setattr(logging, "warning", lambda text, *a: texts.append(text % a))
    return texts


def test_warns_once_that_rows_follow_no_augmentation(faces, caches, root, warned):
    teacher = open_run_teacher(caches[SIZE], faces, True)
    batches(teacher, faces)
    online = OnlineTeacher(str(root / f"model{SIZE}"))
    batches(online, faces, augmentation=Augmentation(brightness=0.5))
    assert not [text for text in warned if "augment" in text]
    open_run_teacher(caches[SIZE], faces, True, Augmentation(crop=2), 2 * SIZE)
    (text,) = [text for text in warned if "augment" in text]
    assert "do not follow --augment" in text and "--augment=crop:1 writes" in text


def test_a_run_that_flips_needs_rows_of_mirror_images(root, faces, tmp_path):
    spec = write_cache(tmp_path, str(root / f"model{SIZE}"), faces, flip=False)
    with pytest.raises(ValueError, match="no rows of mirror images: train with --nof"):
        open_run_teacher(spec, faces, flip=True)
    teacher = open_run_teacher(spec, faces, flip=False)
    assert len(batches(teacher, faces, flip=False)) == 3


DRAWN = DrawnViews(3, seed=7)
# At the side of the teacher; at the student's, half as many pixels.
DRAWN_AUGMENT = Augmentation(crop=4, brightness=0.2, low_resolution=0.5)
STUDENTS = DRAWN_AUGMENT.resized(LARGE, SIZE)


@pytest.fixture(scope="module")
def drawn_cache(root, faces):
    model = str(root / f"model{LARGE}")
    folder = root / "drawn"
    return write_cache(folder, model, faces, drawn=DRAWN, augment=DRAWN_AUGMENT)


@pytest.mark.parametrize("kind", ["traced", "untraceable"])
def test_a_cache_of_drawn_views_trains_like_the_teacher(
    root, faces, drawn_cache, kind, monkeypatch
):
    cached = open_run_teacher(drawn_cache, faces, True, STUDENTS, SIZE)
    assert cached.views == DRAWN
    found = train(cached, faces, augmentation=STUDENTS)
    teacher = online(kind, root, LARGE, monkeypatch)
    weights = train(teacher, faces, augmentation=STUDENTS, views=DRAWN)
    for one, other in zip(found, weights):
        np.testing.assert_allclose(one, other, atol=1e-5)
    # Other draws would show.
    weights = train(teacher, faces, augmentation=STUDENTS)
    assert max(np.abs(a - b).max() for a, b in zip(found, weights)) > 1e-3


def test_drawn_views_belong_to_images_and_not_to_places(root, faces, drawn_cache):
    train_faces, heldout = split_identities(faces, 2, seed=1)
    teacher = open_run_teacher(drawn_cache, train_faces, True, STUDENTS, SIZE)
    _, positions, _ = train_faces.origin()
    rows = teacher.embedder_of(train_faces)._cache.rows
    assert rows.shape == (24, 2 + 3, DIM)
    seen = {}
    for batch in batches(teacher, train_faces, steps=12, augmentation=STUDENTS):
        for image, view, row, pixels in zip(
            positions[batch["image_id"]],
            batch["view"],
            batch["teacher"],
            batch["image"],
        ):
            np.testing.assert_array_equal(row, rows[image, 2 + view])
            first = seen.setdefault((image, view), pixels)
            np.testing.assert_array_equal(first, pixels)
    assert len({view for _, view in seen}) == 3
    # What is evaluated is the image and its mirror image.
    model = evaluators.make_source_embedder(str(root / f"model{LARGE}"))
    found = teacher.embedder_of(heldout)
    np.testing.assert_allclose(found(heldout), model(heldout), atol=1e-5)


def test_more_views_leave_the_first_as_they_are(root, faces, drawn_cache, tmp_path):
    model = str(root / f"model{LARGE}")
    more = DrawnViews(4, seed=7)
    spec = write_cache(tmp_path, model, faces, drawn=more, augment=DRAWN_AUGMENT)
    rows = [
        open_run_teacher(s, faces, True, STUDENTS, SIZE).embedder_of(faces)._cache.rows
        for s in (drawn_cache, spec)
    ]
    np.testing.assert_allclose(rows[0], rows[1][:, :5], atol=1e-5)
    assert np.abs(rows[1][:, 5] - rows[1][:, 4]).max() > 0.1


@pytest.mark.parametrize(
    ("augmentation", "flip"),
    [(STUDENTS, False), (Augmentation(), True), (DRAWN_AUGMENT, True)],
)
def test_a_run_must_draw_what_its_cache_has(faces, drawn_cache, augmentation, flip):
    message = "give --augment=crop:2.66667,brightness:0.2,low_resolution:0.5 and --flip"
    with pytest.raises(ValueError, match=message):
        open_run_teacher(drawn_cache, faces, flip, augmentation, SIZE)
