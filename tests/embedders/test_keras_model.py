import warnings

import keras
import pytest
import tensorflow as tf
from toys import backbone

from ekd_tf.embedders import KerasEmbedder
from ekd_tf.embedders import load_embedder
from ekd_tf.models import MobileFaceNet


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    model = MobileFaceNet(embedding_dim=16, width=0.25, input_size=32)
    model.save(path / "model.keras")
    return path, model


def test_loads_a_workdir_and_a_file_alike(workdir):
    path, model = workdir
    images = tf.cast(tf.random.uniform((2, 32, 32, 3), 0, 255, tf.int32), tf.uint8)
    expected = model(images, training=False)
    for spec in (path, str(path / "model.keras")):
        loaded = load_embedder(spec)
        tf.debugging.assert_equal(loaded(images, training=False), expected)


def test_is_frozen(workdir):
    loaded = load_embedder(workdir[0])
    assert not loaded.trainable_variables
    assert not loaded.trainable


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: d / "none.keras", "does not exist"),
        (lambda d: d, "holds no model.keras: the run in it has not finished"),
        (lambda d: _written(d / "a.h5", b""), "must be a `.keras` file"),
        (lambda d: _written(d / "b.keras", b"PK\x03\x04 cut"), "cannot be loaded"),
    ],
    ids=["missing", "unfinished run", "other format", "damaged"],
)
def test_says_what_is_wrong_with_the_path(tmp_path, make, message):
    with pytest.raises(ValueError, match=message):
        load_embedder(make(tmp_path))


def _written(path, content):
    path.write_bytes(content)
    return path


def test_a_fixed_batch_is_filled_up(rng, tmp_path):
    inputs = keras.Input((4, 4, 3), batch_size=4)
    rows = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(5)(rows))
    model.save(tmp_path / "m.keras")
    embedder = KerasEmbedder(tmp_path / "m.keras")
    kernel, bias = model.get_weights()
    for count in (1, 4, 6):
        images = rng.integers(0, 256, (count, 4, 4, 3)).astype("uint8")
        expected = images.reshape(count, 48) / 255 @ kernel + bias
        for call in (embedder, tf.function(embedder)):
            found = call(tf.constant(images))
            tf.debugging.assert_near(found, expected.astype("float32"), atol=1e-5)


def test_names_a_model_that_has_no_input_yet(tmp_path):
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)])
    with warnings.catch_warnings():
        # Keras says that it is not built.
        warnings.simplefilter("ignore")
        model.save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match="m.keras cannot be loaded: .* keras.Input"):
        load_embedder(tmp_path / "m.keras")


def test_refuses_a_model_that_does_not_embed_images(tmp_path):
    inputs = keras.Input((10,))
    keras.Model(inputs, keras.layers.Dense(3)(inputs)).save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match=r"must map images .* input \(None, 10\)"):
        load_embedder(tmp_path / "m.keras")


def test_takes_a_teacher_of_another_architecture(tmp_path):
    backbone(dim=7).save(tmp_path / "other.keras")
    assert load_embedder(tmp_path / "other.keras").output_shape == (None, 7)


def test_embedder_of_a_workdir_infers_and_names_its_file(workdir):
    path, model = workdir
    embedder = KerasEmbedder(path)
    images = tf.cast(tf.random.uniform((2, 32, 32, 3), 0, 255, tf.int32), tf.uint8)
    tf.debugging.assert_equal(embedder(images), model(images, training=False))
    assert (embedder.input_size, embedder.embedding_dim) == (32, 16)
    assert embedder.fingerprint == KerasEmbedder(path / "model.keras").fingerprint
    assert embedder.traceable
