import keras
import numpy as np

from ekd_tf.keras_compat import tf_variable
from ekd_tf.models import MobileFaceNet
from ekd_tf.models.own import as_backbone
from ekd_tf.models.own import copy_weights


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
