"""ekd_tf.export.equalise: other weights, the same network, like ranges."""

import keras
import numpy as np
import pytest

from ekd_tf.export.equalise import equalise
from ekd_tf.export.precision import as_float32
from ekd_tf.models import MobileFaceNet


@pytest.fixture(params=["prelu", "relu", "leaky_relu"])
def backbone(request, rng):
    """A backbone whose channels differ a hundredfold in range."""
    model = MobileFaceNet(
        width=0.125, input_size=32, embedding_dim=8, activation=request.param
    )
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization) and layer.scale:
            shape = layer.gamma.shape
            layer.gamma.assign(10 ** rng.uniform(-1, 1, shape))
            layer.beta.assign(rng.normal(size=shape))
    return model


def ranges(model, name, images):
    probe = keras.Model(model.inputs[0], model.get_layer(name).output)
    return np.abs(probe(images, training=False)).max(axis=(0, 1, 2))


def test_the_network_computes_the_same_with_like_ranges(backbone, rng):
    images = rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    expected = np.asarray(backbone(images, training=False))
    copy = as_float32(backbone)
    # conv1, conv2_dw, conv_6_sep and two in each of the 15 bottlenecks.
    assert equalise(copy, images, batch_size=4) == 33
    np.testing.assert_allclose(
        copy(images, training=False), expected, rtol=2e-3, atol=2e-4
    )
    # Before a depthwise convolution all channels end with one range.
    for name in ("conv1.bn", "conv_3.model.0.conv.bn"):
        before, after = ranges(backbone, name, images), ranges(copy, name, images)
        assert before.max() / before.min() > 10
        np.testing.assert_allclose(after, after.mean(), rtol=1e-3)
    # Before one over channels the spread of the product is shared with the weights.
    name = "conv_3.model.0.conv_dw.bn"
    kernel = copy.get_layer("conv_3.model.0.project.conv").get_weights()[0]
    weights = np.abs(kernel).max(axis=(0, 1, 3))
    ratio = ranges(copy, name, images) / weights
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-2)


def test_a_channel_that_is_always_zero_is_left_alone(rng):
    model = MobileFaceNet(width=0.125, input_size=32, embedding_dim=8)
    norm = model.get_layer("conv1.bn")
    norm.gamma.assign(np.where(np.arange(8) == 3, 0.0, 1.0))
    images = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    equalise(model, images)
    for weight in model.get_weights():
        assert np.isfinite(weight).all()
    assert norm.gamma.numpy()[3] == 0


def test_a_network_without_such_pairs_is_left_as_it_is():
    images = keras.Input((16, 16, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(images)
    x = keras.layers.Conv2D(4, 3)(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Activation("tanh")(x)
    x = keras.layers.Conv2D(4, 3)(x)
    model = keras.Model(images, keras.layers.Flatten()(x))
    assert equalise(model, np.zeros((1, 16, 16, 3), np.uint8)) == 0
