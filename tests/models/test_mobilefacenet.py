"""MobileFaceNet: size, precision, saving, training, conversion to TFLite."""

import keras
import numpy as np

from ekd_tf.models.mobilefacenet import MobileFaceNet
from ekd_tf.models.presets import count_parameters

TINY = {"embedding_dim": 16, "width": 0.25, "input_size": 32}


def multiply_accumulates(model):
    """Counts those of convolutions and matrices from the layers' shapes."""
    total = 0
    for layer in model.layers:
        kinds = (keras.layers.DepthwiseConv2D, keras.layers.Conv2D, keras.layers.Dense)
        if isinstance(layer, kinds):
            # Each value of the kernel meets each place of the output once.
            places = int(np.prod(layer.output.shape[1:-1]))
            total += places * int(np.prod(layer.weights[0].shape))
    return total


def test_default_size_is_the_papers():
    model = MobileFaceNet()
    assert count_parameters(model) == 1_199_488
    assert round(multiply_accumulates(model) / 1e6) == 221
    assert model.input_shape == (None, 112, 112, 3)
    assert model.output_shape == (None, 512)
    assert model.input.dtype == "uint8"
    assert model.inputs[0].name == "image"
    assert model.output_names == ["embedding"]


def test_at_56_pixels_the_last_kernel_covers_what_is_left():
    # Four halvings, rounded up: 28, 14, 7, 4. So 16 weights in place of 49 for each of
    # the 512 channels.
    model = MobileFaceNet(input_size=56)
    assert count_parameters(model) == 1_199_488 - 512 * (49 - 16)
    assert model.output_shape == (None, 512)


def test_only_prelu_learns_its_slopes():
    counts = {
        activation: count_parameters(MobileFaceNet(**TINY, activation=activation))
        for activation in ("prelu", "relu", "leaky_relu")
    }
    # conv1 and conv2_dw 16 each, twice the inner channels of 1 + 4 blocks of 32,
    # 1 + 6 of 64, 1 of 128 and 2 of 64, and conv_6_sep 128.
    slopes = 2 * 16 + 2 * (5 * 32 + 7 * 64 + 128 + 2 * 64) + 128
    assert counts["prelu"] - counts["relu"] == slopes
    assert counts["relu"] == counts["leaky_relu"]


def test_width_scales_every_channel_but_the_embedding():
    model = MobileFaceNet(embedding_dim=24, width=0.5, input_size=32)
    found = {
        name: tuple(model.get_layer(name).weights[0].shape)
        for name in ("conv1.conv", "conv_45.conv.conv", "conv_6_sep.conv")
    }
    assert found == {
        "conv1.conv": (3, 3, 3, 32),
        "conv_45.conv.conv": (1, 1, 64, 256),
        "conv_6_sep.conv": (1, 1, 64, 256),
    }
    assert model.output_shape == (None, 24)
