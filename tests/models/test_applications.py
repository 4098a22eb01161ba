import keras
import numpy as np
import pytest
from refusals import refused

from ekd_tf.models.applications import Application
from ekd_tf.models.applications import list_applications
from ekd_tf.models.layers import BatchNormalization


def test_lists_networks_alone():
    names = list_applications()
    assert {"MobileNetV3Small", "EfficientNetB0", "ResNet50"} <= set(names)
    assert all(callable(getattr(keras.applications, name)) for name in names)


@pytest.mark.parametrize("stride, pooling", [(2, "depthwise"), (1, "flatten")])
def test_a_network_becomes_an_embedder_of_uint8_pixels(rng, stride, pooling):
    model = Application("MobileNet", 8, 64, pooling, stride, alpha=0.25, name="student")
    images = rng.integers(0, 256, (4, 64, 64, 3), np.uint8)
    embeddings = np.asarray(model(images, training=True))
    assert embeddings.shape == (4, 8) and np.isfinite(embeddings).all()
    assert (model.input.dtype, model.name) == ("uint8", "student")
    # 64 pixels and five strides of 2, or four, and 256 channels.
    if pooling == "depthwise":
        shape = model.get_layer("global_depthwise").output.shape
        assert tuple(shape) == (None, 1, 1, 256)
    else:
        kernel = model.get_layer("projection").kernel
        assert tuple(kernel.shape) == (4 * 4 * 256, 8)
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert all(isinstance(x, BatchNormalization) for x in norms)
    assert {x.momentum for x in norms} == {0.9}


def test_pixels_are_normalised_once(rng):
    names = [x.name for x in Application("MobileNetV3Small", 8, 32).layers]
    assert "pixel_normalization" in names
    assert not [name for name in names if "rescaling" in name]
    names = [x.name for x in Application("EfficientNetB0", 8, 32).layers]
    assert "pixels" in names and "pixel_normalization" not in names


def test_says_what_does_not_fit():
    for arguments, words in (
        ({"network": "MobileNetV9"}, "`network` must be"),
        ({"network": "MobileNet", "alpah": 1}, "cannot be built.*alpah"),
        ({"network": "Xception", "input_size": 56}, "cannot be built: Input size"),
    ):
        arguments = {"embedding_dim": 8, "input_size": 112, **arguments}
        refused(words, Application, **arguments)


@pytest.mark.parametrize(
    ("strides", "reason"), [(2, ""), (4, "none of its layers has a stride of 2")]
)
def test_first_strides_that_are_shared_or_not_two_stay(monkeypatch, strides, reason):
    def forked(input_tensor, input_shape, include_top, weights):
        halves = [keras.layers.Conv2D(4, 2, strides)(input_tensor) for _ in "ab"]
        return keras.Model(input_tensor, keras.layers.add(halves))

    monkeypatch.setattr(keras.applications, "MobileNet", forked)
    refused(f"{reason}.*Leave it at 2", Application, "MobileNet", 8, 32, stem_stride=1)
