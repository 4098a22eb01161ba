import io
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from refusals import refused
from toys import backbone

from ekd_tf.embedders import KerasEmbedder
from ekd_tf.embedders import load_embedder


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    model = backbone(dim=16, size=32)
    model.save(path / "model.keras")
    return path, model


def test_loads_a_workdir_and_a_file_alike(workdir):
    path, model = workdir
    images = tf.cast(tf.random.uniform((2, 32, 32, 3), 0, 255, tf.int32), tf.uint8)
    expected = model(images, training=False)
    for spec in (path, str(path / "model.keras")):
        loaded = load_embedder(spec)
        tf.debugging.assert_equal(loaded(images, training=False), expected)
        assert not loaded.trainable_variables and not loaded.trainable
    embedder = KerasEmbedder(path)
    tf.debugging.assert_equal(embedder(images), expected)
    assert (embedder.input_size, embedder.embedding_dim) == (32, 16)
    assert embedder.fingerprint == KerasEmbedder(path / "model.keras").fingerprint
    assert embedder.traceable


def test_says_what_is_wrong_with_the_path(tmp_path):
    (tmp_path / "a.h5").touch()
    (tmp_path / "b.keras").write_bytes(b"PK\x03\x04 cut")
    for name, words in (
        ("none.keras", "does not exist"),
        ("", "holds no model.keras, as a finished run does"),
        ("a.h5", "must be a `.keras` file"),
        ("b.keras", "cannot be loaded: it is no zip archive"),
    ):
        refused(words, load_embedder, tmp_path / name)


# Keras says that the first is not built.
@pytest.mark.filterwarnings("ignore")
def test_refuses_a_model_that_does_not_embed_images(tmp_path):
    path = tmp_path / "m.keras"
    keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)]).save(path)
    refused("m.keras does not say what it takes.* keras.Input", load_embedder, path)
    inputs = keras.Input((10,))
    keras.Model(inputs, keras.layers.Dense(3)(inputs)).save(path)
    refused(r"take square RGB .* input \(None, 10\)", load_embedder, path)


def test_a_weight_missing_or_unexpected_is_fatal(workdir, tmp_path):
    with zipfile.ZipFile(workdir[0] / "model.keras") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    for change, words in (
        (lambda held: held.pop("conv2d"), "cannot be loaded: "),
        (lambda held: held.create_dataset("other/vars/0", (2, 3)), "of which its mod"),
    ):
        content = io.BytesIO(files["model.weights.h5"])
        with h5py.File(content, "r+") as weights:
            change(weights["layers"])
        path = tmp_path / "changed.keras"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in {**files, "model.weights.h5": content.getvalue()}.items():
                archive.writestr(name, data)
        refused(words, load_embedder, path)


def test_what_belongs_to_training_is_no_weight_of_the_model(tmp_path):
    model = backbone()
    optimizer = keras.optimizers.SGD(momentum=0.9)
    model.compile(optimizer, "mse", metrics=["mae"], run_eagerly=True)
    images = np.zeros((4, 16, 16, 3), np.uint8)
    model.fit(images, np.zeros((4, 8)), verbose=0)
    model.save(tmp_path / "trained.keras")
    assert load_embedder(tmp_path / "trained.keras").count_params() > 0
