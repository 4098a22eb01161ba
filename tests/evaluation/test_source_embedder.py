import numpy as np
import pytest
from pictures import encode
from pictures import face

from ekd_tf.data import FolderFaces
from ekd_tf.data import SyntheticFaces
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.evaluation import SourceEmbedder


class Corner:
    """Embeds by the pixels of the upper left corner; counts the images it saw."""

    def __init__(self):
        self.seen = 0

    def __call__(self, images):
        images = np.asarray(images)
        self.seen += len(images)
        return images[:, :2, :2].reshape(len(images), 12).astype(np.float32) + 1


@pytest.fixture(scope="module")
def source():
    return SyntheticFaces(identities=3, images_per_identity=2, size=32)


def embedder(model, **arguments):
    return SourceEmbedder(model, 32, batch_size=4, traceable=False, **arguments)


def test_keeps_image_and_mirror_image_apart(source):
    views = embedder(Corner()).views(source)
    assert views.shape == (6, 2, 12) and views.dtype == np.float32
    images = source.read(np.arange(6)).astype(np.float32)
    for view, seen in enumerate((images, images[:, :, ::-1])):
        np.testing.assert_array_equal(
            views[:, view], seen[:, :2, :2].reshape(6, 12) + 1
        )
    assert embedder(Corner(), flip=False).views(source).shape == (6, 1, 12)


def test_a_model_in_training_is_asked_each_time(source):
    model = Corner()
    embed = embedder(model)
    embed(source)
    seen = model.seen
    embed(source)
    assert model.seen == 2 * seen > 0


def test_a_frozen_model_is_asked_once_per_source(source):
    model = Corner()
    embed = embedder(model, fingerprint="m")
    first = embed(source)
    seen = model.seen
    np.testing.assert_array_equal(embed(source), first)
    assert model.seen == seen
    embed(SyntheticFaces(identities=3, images_per_identity=2, size=32, seed=1))
    assert model.seen == 2 * seen


@pytest.mark.parametrize(
    ("change", "is_new"),
    [({}, False), ({"fingerprint": "n"}, True), ({"flip": False}, True)],
)
def test_the_cache_outlives_the_object(source, tmp_path, change, is_new):
    embedder(Corner(), fingerprint="m", cache=tmp_path)(source)
    model = Corner()
    arguments = {"fingerprint": "m", **change}
    embedder(model, cache=tmp_path, **arguments)(source)
    assert (model.seen > 0) == is_new


def test_tells_how_far_it_is_when_it_goes_on(source, tmp_path):
    arguments = {"fingerprint": "m", "cache": tmp_path}
    embedder(Corner(), **arguments)(source)
    (path,) = tmp_path.glob("*.f32")
    path.write_bytes(path.read_bytes()[: 4 * 2 * 12 * 4])
    told = []

    def progress(name, images):
        told.append((name, images))
        return told.append

    embedder(Corner(), progress=progress, **arguments)(source)
    assert told == [(source.name, 2), 2]


def test_some_images_are_embedded_like_all(source):
    embed, some = embedder(Corner()), np.array([4, 1])
    np.testing.assert_allclose(embed.some(source, some), embed(source)[some])


def test_an_unreadable_image_is_replaced_only_where_allowed(rng, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for k in range(2):
            (tmp_path / name / f"{k}.png").write_bytes(encode(face(rng)))
    (tmp_path / "b" / "0.png").write_bytes(b"damaged")
    source = FolderFaces(tmp_path)
    for of in (lambda embed: embed(source), lambda embed: embed.some(source, [2, 3])):
        with pytest.raises(ValueError, match="b/0.png"):
            of(embedder(Corner()))
        rows = of(embedder(Corner(), unreadable=Unreadable(1)))
        np.testing.assert_array_equal(rows[-2], rows[-1])
