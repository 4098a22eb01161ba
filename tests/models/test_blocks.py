import keras
import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.models.blocks import activate
from ekd_tf.models.blocks import conv
from ekd_tf.models.blocks import scaled_channels


def test_channels_are_rounded_to_multiples_of_eight():
    # 19.2 is nearer to 16 than to 24; 20 is halfway: up.
    widths = (1.0, 0.25, 0.3, 0.35, 0.3125, 0.01, 3.0)
    assert [scaled_channels(64, w) for w in widths] == [64, 16, 16, 24, 24, 8, 192]


@pytest.mark.parametrize(("filters", "fan_out"), [(64, 3 * 3 * 64), (None, 3 * 3)])
def test_kernels_differ_and_vary_by_two_over_their_outputs(filters, fan_out):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape=(8, 8, 512))
    both = [conv(inputs, filters, 3, name) for name in ("c", "d")]
    model = keras.Model(inputs, both)
    kernel, other = (tf.convert_to_tensor(w).numpy() for w in model.weights)
    assert np.all(kernel != other)
    # At least 4,608 draws: the variance is known to 2.1 %, four times that is 8.4 %.
    np.testing.assert_allclose(kernel.var(), 2 / fan_out, rtol=0.085)


def test_activations_computed_by_hand():
    inputs = keras.Input(shape=(1, 1, 2))
    for activation, negative in (("prelu", -0.5), ("relu", 0.0), ("leaky_relu", -0.5)):
        model = keras.Model(inputs, activate(inputs, activation, "act"))
        found = model(np.float32([[[[-2.0, 3.0]]]]))
        np.testing.assert_allclose(found, [[[[negative, 3.0]]]])
        assert len(model.weights) == (activation == "prelu")
