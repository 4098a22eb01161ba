import keras
import numpy as np
import pytest
import tensorflow as tf
from matrix_models import MATRIX
from matrix_models import draw
from matrix_models import embed
from pictures import write_people
from refusals import refused
from toys import unit

from ekd_tf.data import FolderFaces
from ekd_tf.data import SyntheticFaces
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.evaluation import Embedder
from ekd_tf.evaluation import SourceEmbedder


def linear(images):
    """A model whose embedding depends on where a pixel is: no BN, no noise."""
    return tf.reshape(tf.cast(images, tf.float32), [-1, 48]) @ MATRIX


def test_flip_adds_raw_embeddings_before_normalising(rng):
    images = draw(rng, 6)
    raw, mirrored = embed(images), embed(images[:, :, ::-1])
    embeddings = Embedder(linear)([images])
    np.testing.assert_allclose(embeddings, unit(raw + mirrored), atol=1e-5)
    # Adding unit vectors is another thing: the test would notice.
    assert np.abs(unit(unit(raw) + unit(mirrored)) - embeddings).max() > 1e-3
    embeddings = Embedder(linear, flip=False)([images])
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, unit(raw), atol=1e-5)


def test_batches_of_any_cut_give_the_same_by_one_trace(rng):
    traced = []

    def model(images):
        traced.append(tuple(images.shape))
        return linear(images)

    images = draw(rng, 11)
    expected = Embedder(linear)([images])
    embedder = Embedder(model)
    for sizes in ([4, 4, 3], [4, 0, 4, 3]):
        embeddings = embedder(np.split(images, np.cumsum(sizes)[:-1]))
        np.testing.assert_allclose(embeddings, expected, atol=1e-6)
    # Images and mirror images are of one shape.
    assert traced == [(4, 4, 4, 3)]
    np.testing.assert_allclose(embedder(np.split(images, [5])), expected, atol=1e-6)


def test_keras_model_runs_in_inference_mode(rng):
    inputs = keras.Input((4, 4, 3), dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    x = keras.layers.BatchNormalization(center=False)(keras.layers.Dropout(0.5)(x))
    images = draw(rng, 5)
    embeddings = Embedder(keras.Model(inputs, x), flip=False)([images])
    # BN at its first state divides by sqrt(1 + eps) only, which normalising undoes.
    expected = unit(images.reshape(5, -1).astype(float))
    np.testing.assert_allclose(embeddings, expected, atol=1e-6)


def test_half_precision_embeddings_are_added_in_float32(rng):
    def model(images):
        # 40000 + 40000 is above the largest float16.
        return tf.fill([tf.shape(images)[0], 4], tf.constant(40000.0, tf.float16))

    embeddings = Embedder(model)([draw(rng, 2)])
    np.testing.assert_allclose(embeddings, np.full((2, 4), 0.5), rtol=1e-6)


def test_rejects_other_than_uint8_images(rng):
    model, words = Embedder(linear), "`batches` must hold uint8 images"
    refused("`batches` must hold images", model, [])
    refused(words, model, [np.zeros((2, 4, 4, 3), np.float32)])
    for shape in ((4, 4, 3), (2, 4, 4, 1)):
        refused(words, model, [np.zeros(shape, np.uint8)])
    flat = Embedder(lambda x: tf.cast(x, tf.float32))
    refused("`embeddings` must have 2 dimensions", flat, [draw(rng, 2)])


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
        corners = seen[:, :2, :2].reshape(6, 12)
        np.testing.assert_array_equal(views[:, view], corners + 1)
    assert embedder(Corner(), flip=False).views(source).shape == (6, 1, 12)
    one, some = embedder(Corner()), np.array([4, 1])
    np.testing.assert_allclose(one.some(source, some), one(source)[some])


def test_a_frozen_model_is_asked_once_per_source_and_one_in_training_each_time(source):
    other = SyntheticFaces(identities=3, images_per_identity=2, size=32, seed=1)
    for fingerprint, times in (("m", [1, 1, 2]), (None, [1, 2, 3])):
        model = Corner()
        of_source = embedder(model, fingerprint=fingerprint)
        seen = []
        for each in (source, source, other):
            of_source(each)
            seen.append(model.seen)
        assert seen == [n * seen[0] for n in times] and seen[0] > 0


def test_the_cache_outlives_the_object(source, tmp_path):
    for change, is_new in (
        ({"fingerprint": "m"}, True),
        ({}, False),
        ({"fingerprint": "n"}, True),
        ({"flip": False}, True),
    ):
        model = Corner()
        embedder(model, cache=tmp_path, **{"fingerprint": "m", **change})(source)
        assert (model.seen > 0) == is_new


def test_tells_how_far_it_is_when_it_goes_on(source, tmp_path):
    arguments = {"fingerprint": "m", "cache": tmp_path}
    embedder(Corner(), **arguments)(source)
    (path,) = tmp_path.glob("*.f32")
    path.write_bytes(path.read_bytes()[: 4 * 2 * 12 * 4])
    told = []

    def progress(*what):
        told.append(what)
        return told.append

    embedder(Corner(), progress=progress, **arguments)(source)
    assert told == [(source.name, 2, "images"), 2]


def test_an_unreadable_image_is_replaced_only_where_allowed(tmp_path):
    faces = write_people(tmp_path, people=2, each=2, side=16)
    (faces / "p1" / "0.png").write_bytes(b"damaged")
    source, some = FolderFaces(tmp_path), np.array([2, 3])
    strict = embedder(Corner(), unreadable=Unreadable(0))
    tolerant = embedder(Corner(), unreadable=Unreadable(1))
    refused("p1/0.png", strict, source)
    refused("p1/0.png", strict.some, source, some)
    for rows in (tolerant(source), tolerant.some(source, some)):
        np.testing.assert_array_equal(rows[-2], rows[-1])


def test_names_the_image_and_the_model_of_an_embedding_that_is_none(source):
    def blank(images):
        return np.full((len(images), 12), np.nan, np.float32)

    blank.name = "blank.onnx"
    words = "Embeddings by blank.onnx hold NaN or infinity: {} of them, the first of "
    words += "image {}, synthetic identity {}, image 0"
    of_source = embedder(blank)
    refused(words.format(6, 0, 0), of_source, source)
    refused(words.format(2, 4, 2), of_source.some, source, np.array([4, 1]))
