import keras
import numpy as np
import pytest

from ekd_tf.export.equalise import equalise
from ekd_tf.export.saved_model import float32_copy
from ekd_tf.models import MobileFaceNet


@pytest.fixture(scope="module", params=["prelu", "relu"])
def networks(request):
    """A backbone whose channels differ a hundredfold in range, its copy, and images."""
    rng = np.random.default_rng(20220605)
    sizes = {"width": 0.125, "input_size": 32, "embedding_dim": 8}
    model = MobileFaceNet(**sizes, activation=request.param)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization) and layer.scale:
            shape = layer.gamma.shape
            layer.gamma.assign(10 ** rng.uniform(-1, 1, shape))
            layer.beta.assign(rng.uniform(0, 1, shape))
    # One that is always zero.
    norm = model.get_layer("conv1.bn")
    for weight in (norm.gamma, norm.beta):
        weight.assign(np.where(np.arange(8) == 3, 0.0, weight.numpy()))
    images = rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    copy = float32_copy(model)
    # conv1, conv2_dw, conv_6_sep and three in each of the 15 bottlenecks.
    assert equalise(copy, images) == 48
    return model, copy, images, request.param


def ranges(model, name, images, activation):
    """Returns the ranges of what int8 stores between `name` and what reads it."""
    # A ReLU is fused: what the batch normalisation returns is never stored.
    kinds = ["prelu"] if activation == "relu" else ["bn", "prelu"]
    outputs = [model.get_layer(f"{name}.{kind}").output for kind in kinds]
    found = keras.Model(model.inputs[0], outputs)(images, training=False)
    found = found if isinstance(found, (list, tuple)) else [found]
    return np.max([np.abs(f).max(axis=(0, 1, 2)) for f in found], axis=0)


def test_the_network_computes_the_same_with_like_ranges(networks):
    backbone, copy, images, activation = networks
    expected = np.asarray(backbone(images, training=False))
    received = np.asarray(copy(images, training=False))
    atol = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(received, expected, rtol=2e-3, atol=atol)
    # Before a depthwise convolution all channels end with one range.
    for name in ("conv1", "conv_3.model.0.conv"):
        before = ranges(backbone, name, images, activation)
        after = ranges(copy, name, images, activation)
        alive = before > 0
        assert alive.sum() > 4 and np.ptp(np.log10(before[alive])) > 1
        # But for a channel that would have to be scaled more than a hundredfold.
        off = ~np.isclose(after[alive], np.median(after[alive]), rtol=1e-3)
        assert off.sum() <= 1
    # Before one over channels the spread of the product is shared with the weights.
    name = "conv_3.model.0"
    kernel = copy.get_layer(f"{name}.project.conv").get_weights()[0]
    weights = np.abs(kernel).max(axis=(0, 1, 3))
    ratio = ranges(copy, f"{name}.conv_dw", images, activation) / weights
    alive = ratio > 0
    assert alive.sum() > 4
    np.testing.assert_allclose(ratio[alive], ratio[alive].mean(), rtol=1e-2)
    # A channel that is always zero is left alone.
    assert all(np.isfinite(weight).all() for weight in copy.get_weights())
    assert copy.get_layer("conv1.bn").gamma.numpy()[3] == 0


def test_a_residual_stream_is_scaled_as_one(networks):
    backbone, copy, _, _ = networks
    names = ["conv_23.project.bn"]
    names += [f"conv_3.model.{block}.project.bn" for block in range(4)]
    gammas = [[m.get_layer(n).gamma for n in names] for m in (copy, backbone)]
    first, *others = np.divide(*gammas)
    assert np.ptp(first) > 0.1
    np.testing.assert_allclose(others, [first] * len(others), rtol=1e-5)


def test_channels_behind_a_bend_or_a_relu_that_cuts_are_left_as_they_are(rng):
    images = rng.uniform(0, 255, (4, 8, 8, 3)).astype(np.float32)
    for layer in (keras.layers.Activation("tanh"), keras.layers.ReLU(6.0)):
        image = keras.Input((8, 8, 3))
        x = keras.layers.Conv2D(4, 3, use_bias=False)(image)
        x = keras.layers.BatchNormalization(gamma_initializer="random_uniform")(x)
        model = keras.Model(image, keras.layers.DepthwiseConv2D(3)(layer(x)))
        assert equalise(model, images) == 0
