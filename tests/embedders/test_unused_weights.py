"""Tests for `ekd_tf.embedders.unused_weights`."""

import io
import zipfile

import h5py
import keras
import numpy as np
import pytest
from toys import backbone

from ekd_tf.embedders import load_embedder


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "teacher.keras"
    backbone().save(path)
    return path


def layer(weights, kind):
    (name,) = [name for name in weights["layers"] if name.startswith(kind)]
    return weights["layers"][name]["vars"]


def tampered(path, target, change):
    """Copies a model file with its weights changed by `change(h5py.File)`."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    content = io.BytesIO(files["model.weights.h5"])
    with h5py.File(content, "r+") as weights:
        change(weights)
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in files.items():
            data = content.getvalue() if name == "model.weights.h5" else data
            archive.writestr(name, data)
    return target


def remove_bias(weights):
    del layer(weights, "dense")["1"]


def remove_layer(weights):
    del weights["layers"]["conv2d"]


def add_to_layer(weights):
    layer(weights, "conv2d")["2"] = np.zeros(6, np.float32)


def add_layer(weights):
    weights["layers/other_layer/vars/0"] = np.zeros((2, 3), np.float32)


def add_copy(weights):
    weights["layers/other_layer/vars/0"] = layer(weights, "dense")["0"][()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove_bias, "cannot be loaded: "),
        (remove_layer, "cannot be loaded: "),
        (add_to_layer, "cannot be loaded: "),
        (add_layer, r"does not use: layers/other_layer/vars/0 \(2, 3\). The file"),
        (add_copy, "does not use: layers/other_layer/vars/0 "),
    ],
)
def test_a_weight_missing_or_unexpected_is_fatal(saved, tmp_path, change, message):
    path = tampered(saved, tmp_path / "changed.keras", change)
    with pytest.raises(ValueError, match=message):
        load_embedder(path)


def test_an_untouched_file_loads(saved, tmp_path):
    path = tampered(saved, tmp_path / "copy.keras", lambda weights: None)
    before = keras.models.load_model(saved).get_weights()
    for one, other in zip(before, load_embedder(path).get_weights()):
        np.testing.assert_array_equal(one, other)


def test_what_belongs_to_training_is_no_weight_of_the_model(tmp_path):
    model = backbone()
    model.compile(keras.optimizers.SGD(momentum=0.9), loss="mse", metrics=["mae"])
    images = np.zeros((4, 16, 16, 3), np.uint8)
    model.fit(images, np.zeros((4, 8)), verbose=0)
    model.save(tmp_path / "trained.keras")
    assert load_embedder(tmp_path / "trained.keras").count_params() > 0
