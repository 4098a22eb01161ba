import sys

import keras
import numpy as np
from refusals import refused

from ekd_tf.keras_compat import tf_variable
from ekd_tf.models import MobileFaceNet
from ekd_tf.models.own import as_backbone
from ekd_tf.models.own import copy_weights
from ekd_tf.models.own import load_function


def network(size=32, dtype="float32", outputs=5, **policy):
    image = keras.Input((size, size, 3), dtype=dtype)
    x = keras.layers.Rescaling(0.5)(image) if dtype == "uint8" else image
    x = keras.layers.Conv2D(4, 3, **policy)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(outputs, **policy)(x), name="mine")


def test_takes_pixels_in_the_range_of_the_network(images):
    model = network()
    for low, high in ((0.0, 255.0), (-1.0, 1.0), (0.0, 1.0)):
        backbone = as_backbone(model, "m.keras", low, high)
        expected = model(images.astype(np.float32) / 255 * (high - low) + low)
        np.testing.assert_allclose(backbone(images), expected, rtol=1e-4, atol=1e-5)
    assert backbone.input_shape == (None, 32, 32, 3) and backbone.name == "mine"
    assert len(backbone.trainable_variables) == 4


def test_a_network_of_uint8_pixels_keeps_its_own_normalisation(images):
    model = network(dtype="uint8")
    model.trainable = False
    backbone = as_backbone(model, "m.keras")
    np.testing.assert_allclose(backbone(images), model(images), rtol=1e-6)
    assert len(backbone.trainable_variables) == 4


def test_sequential_networks_are_taken_and_all_end_in_float32(images, mixed_policy):
    layers = [keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]
    assert as_backbone(keras.Sequential(layers), "m")(images).shape == (8, 2)
    mixed_policy("mixed_bfloat16")
    assert as_backbone(network(), "m")(images).dtype == "float32"


def test_refuses_what_is_no_backbone_in_one_line(mixed_policy):
    image = keras.Input((16, 16, 3))
    rows = keras.layers.Flatten()(image)
    not_finite = network()
    weight = tf_variable(not_finite.trainable_variables[0])
    weight.assign(weight * np.nan)
    for model, words in (
        ("text", "m must be a keras.Model. Received: str"),
        (keras.Sequential([keras.layers.Dense(2)]), "does not say what it takes"),
        (keras.Model(image, [rows, rows]), "one input and one output.*1 and 2"),
        (network(size=None), r"fixed size.*Received: input \(None, None, None, 3\)"),
        (keras.Model(image, image), r"vectors.*Received: output \(None, 16, 16, 3\)"),
        (not_finite, "weights that are not finite: .*kernel"),
        (network(dtype="float32").__class__(image, rows), "has no weights to train"),
    ):
        assert "\n" not in refused(words, as_backbone, model, "m")
    x = keras.layers.Conv2D(2, 3, dtype="mixed_float16")(image)
    model = keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    refused("m computes in float16 and float32", as_backbone, model, "m")
    model = network()
    mixed_policy("mixed_float16")
    refused("m computes in float32.*run in float16", as_backbone, model, "m")
    model = network()
    mixed_policy("float32")
    refused("m computes in float16.*train under its own", as_backbone, model, "m")


def test_functions_of_ones_own_are_found_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text("def small(width=1.0): return width")
    (tmp_path / "my_broken.py").write_text("raise RuntimeError('no\\nway')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert load_function("my_networks:small")(width=0.5) == 0.5
    for name, words in (
        ("my_networks:large", "must be .*small.*Received: .*large"),
        ("my_broken:x", "my_broken cannot be imported: no way"),
        ("absent:x", "cannot be imported: No module named 'absent'"),
    ):
        refused(words, load_function, name)


def student(**arguments):
    return MobileFaceNet(8, 0.125, input_size=32, **arguments)


def test_equal_networks_embed_alike_afterwards(rng, short_networks):
    source, target = student(), student()
    for variable in map(tf_variable, source.variables):
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    assert copy_weights(source, target) == []
    images = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(source(images), target(images))


def test_names_that_keras_makes_up_do_not_matter():
    def network():
        layers = [keras.layers.Flatten(), keras.layers.Dense(3), keras.layers.Dense(2)]
        model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
        return as_backbone(model, "m")

    source, target = network(), network()
    assert copy_weights(source, target) == []
    for old, new in zip(source.get_weights(), target.get_weights()):
        np.testing.assert_array_equal(old, new)


def test_lists_what_has_no_counterpart(short_networks):
    source, target = student(), student(activation="relu", last_bn_affine=True)
    gamma = tf_variable(target.get_layer("output_layer.bn").gamma)
    gamma.assign(gamma + 1.0)
    wider = MobileFaceNet(9, 0.125, input_size=32, activation="relu")
    assert copy_weights(source, target) == [
        "output_layer.bn/gamma (8,)",
        "output_layer.bn/beta (8,)",
    ]
    np.testing.assert_array_equal(gamma, np.full(8, 2.0))
    kernels = [m.get_layer("conv1.conv").get_weights()[0] for m in (source, target)]
    np.testing.assert_array_equal(*kernels)
    left = copy_weights(source, wider)
    assert "output_layer.linear/kernel (64, 9)" in left and len(left) == 3
