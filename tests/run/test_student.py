"""--model: networks of any kind train, resume, export and evaluate alike."""

import sys
from unittest import mock

import keras
import numpy as np
import pytest
from refusals import refused
from test_session import SHORT
from test_session import train

from ekd_tf.embedders import load_embedder
from ekd_tf.export.convert import ConversionError
from ekd_tf.keras_compat import IS_KERAS_3
from ekd_tf.run.config import TrainConfig
from ekd_tf.run.settings import check_effects
from ekd_tf.run.student import make_student
from ekd_tf.run.student import start_from
from ekd_tf.run.student import takes

FLAGS = {"embedding_dim": 8, "width": 0.25, "input_size": 32}
FLAGS |= {"activation": "relu", "dropout": 0.0}
NETWORKS = """
import keras

@keras.saving.register_keras_serializable(package="networks_of_test")
class Halved(keras.layers.Layer):
    def call(self, inputs):
        return inputs * 0.5

def tiny(embedding_dim, input_size=32, filters=4):
    image = keras.Input((input_size, input_size, 3))
    x = keras.layers.Rescaling(0.01)(image)
    x = keras.layers.Conv2D(filters, 3, strides=2, name="conv")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(embedding_dim, name="linear")(Halved()(x))
    return keras.Model(image, x, name="tiny-net")

class Lost(keras.layers.Layer):
    def call(self, inputs):
        return inputs * 0.5

def lost(embedding_dim, input_size):
    image = keras.Input((input_size, input_size, 3))
    x = keras.layers.Dense(embedding_dim)(keras.layers.Flatten()(Lost()(image)))
    return keras.Model(image, x)

def broken(input_size):
    raise RuntimeError("no such width")

def deep(depth):
    pass
"""


@pytest.fixture
def networks(tmp_path, monkeypatch):
    """A module of networks in the current folder."""
    (tmp_path / "networks_of_test.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return "networks_of_test:tiny"


def test_builds_networks_of_every_kind(networks, tmp_path):
    own = make_student(f"{networks}:filters=6", **FLAGS)
    assert own.output_shape == (None, 8)
    assert {tuple(v.shape) for v in own.trainable_variables} >= {(3, 3, 3, 6)}
    own.save(tmp_path / "own.keras")
    again = make_student(str(tmp_path / "own.keras"), **FLAGS)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    np.testing.assert_allclose(again(images), own(images), rtol=1e-6)
    student = make_student("keras:MobileNet:alpha=0.25:stem_stride=1", **FLAGS)
    assert student.output_shape == (None, 8) and student.name == "mobilenet"


def test_flags_a_network_does_not_have_are_refused(networks, tmp_path):
    make_student(networks, **FLAGS).save(tmp_path / "own.keras")
    for model, flag, value in (
        ("iresnet18", "activation", "relu"),
        (networks, "width", 0.5),
        ("own.keras", "embedding_dim", 8),
        ("keras:MobileNet", "activation", "relu"),
    ):
        assert not takes(model, flag)
        config = TrainConfig(model=model, **{flag: value})
        words = f"`--{flag}={value}` has no effect without a --model that has --{flag}"
        refused(words, check_effects, config)
    check_effects(TrainConfig(model="ghostfacenet_v2", activation="relu", dropout=0.1))


def test_says_what_is_wrong_in_one_line(networks, tmp_path):
    make_student(networks, **{**FLAGS, "input_size": 40}).save("own.keras")
    (tmp_path / "torn.keras").write_bytes(b"PK")
    for spec, words in (
        ("mobilfacenet", "`model` must be .*keras:NAME.*Received: .*mobilfacenet"),
        ("mobilefacenet:widht=2", "--model=mobilefacenet:.*widht"),
        ("mobilefacenet:width=2", "--model=mobilefacenet:.*width"),
        ("keras:MobileNet:dropout=0.2", "--model=keras:MobileNet:WORD.*dropout"),
        ("keras:MobileNetV3Small:dropout_rate=0.2", "WORD.*dropout_rate"),
        ("keras:MobilNet", "`model=keras:` must be"),
        ("keras", "must be"),
        ("networks_of_test:broken", r"built: .*of_test.py:\d+: no such width"),
        ("networks_of_test:deep", "takes 'depth', which is no flag.*:depth=VALUE"),
        ("own.keras", "takes images of 40 px: give --input_size=40"),
        ("torn.keras", "torn.keras cannot be loaded"),
        ("own.keras@bgr", "only @LOW..HIGH may follow a .keras file"),
    ):
        assert "\n" not in refused(words, make_student, spec, **FLAGS), spec


def run(path, model, **changes):
    return train(path, model=model, heldout_data=None, **SHORT, **changes)


def test_a_network_of_ones_own_trains_resumes_exports_and_starts_another(
    networks, tmp_path, monkeypatch
):
    arguments = {"export": True, "embedding_dim": 8}
    path = run(tmp_path / "one", networks, **arguments)
    assert (path / "export" / "student" / "1" / "saved_model.pb").is_file()
    # Whoever evaluates has not imported the module of its layers.
    del sys.modules["networks_of_test"]
    del keras.saving.get_custom_objects()["networks_of_test>Halved"]
    model = load_embedder(path)
    run(path, networks, **arguments)
    # That it converts is known.
    monkeypatch.setattr("ekd_tf.run.student.convert_tflite", lambda student: None)
    # A file trains further, from its weights, and so does a network of its kind.
    for name, spec, more in (
        ("two", str(path / "model.keras"), {}),
        ("three", networks, {"init": str(path), "embedding_dim": 8}),
    ):
        started = load_embedder(run(tmp_path / name, spec, learning_rate=1e-8, **more))
        for old, new in zip(model.get_weights(), started.get_weights()):
            np.testing.assert_allclose(old, new, atol=1e-4)


def test_weights_that_do_not_fit_are_listed(networks, caplog):
    caplog.set_level("INFO", logger="absl")
    make_student(networks, **FLAGS).save("a.keras")
    other = make_student(networks, **{**FLAGS, "embedding_dim": 9})
    words = "for 2 of 4 weights: .*linear.*_partial"
    refused(words, start_from, other, "a.keras", partial=False)
    start_from(other, "a.keras", partial=True)
    assert "2 of 4 weights start at random" in caplog.text and "linear" in caplog.text
    make_student(f"{networks}:filters=5", **FLAGS).save("b.keras")
    refused("has nothing for", start_from, other, "b.keras", partial=True)


def test_a_network_that_cannot_be_used_is_refused_before_the_training(
    networks, tmp_path, monkeypatch
):
    # Keras 2 does not say which class it lacks.
    cause = "Could not locate class 'Lost'" if IS_KERAS_3 else ""
    words = f"could not be loaded .* training: {cause}.*Register layers"
    refused(words, run, tmp_path / "run", "networks_of_test:lost")
    # And one that TFLite cannot run.
    convert = mock.Mock(side_effect=ConversionError("no builtin of MatrixDeterminant"))
    monkeypatch.setattr("ekd_tf.run.student.convert_tflite", convert)
    words = "`--export` is not possible: .*eterminant"
    refused(words, run, tmp_path / "run", networks, export=True)
    assert not list((tmp_path / "run").rglob("*.npz"))
