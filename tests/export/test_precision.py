import keras
import numpy as np
import tensorflow as tf
from refusals import refused

from ekd_tf.export.saved_model import float32_copy
from ekd_tf.export.saved_model import half_precision_layers


@keras.saving.register_keras_serializable(package="tests_export")
class Block(keras.layers.Layer):
    """Has a part that takes its policy from the global one, as many layers do."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.inner = keras.layers.Dense(units, name="inner")

    def build(self, input_shape):
        self.inner.build(input_shape)
        self.built = True

    def call(self, inputs):
        return self.inner(inputs)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable(package="tests_export")
class Stubborn(keras.layers.Dense):
    """Computes in half precision whatever its config says."""

    def __init__(self, units, dtype=None, **kwargs):
        super().__init__(units, dtype="mixed_float16", **kwargs)


def graph_dtypes(model):
    spec = tf.TensorSpec((None, *model.input_shape[1:]), model.inputs[0].dtype)
    function = tf.function(lambda x: model(x, training=False), input_signature=[spec])
    operations = function.get_concrete_function().graph.get_operations()
    return {output.dtype.name for op in operations for output in op.outputs}


def test_a_copy_of_all_parts_is_float32_and_the_original_stays(mixed_policy, rng):
    mixed_policy("bfloat16")
    deep = keras.layers.Dense(5, name="deep")
    nested = keras.Sequential([keras.layers.Input((4,)), deep], name="nested")
    inputs = keras.layers.Input((4,))
    # A policy of the layer's own beside those from the global one.
    own = keras.layers.Dense(3, dtype="mixed_float16", name="own")
    model = keras.Model(inputs, own(Block(3, name="block")(nested(inputs))))
    before = [value.copy() for value in model.get_weights()]
    copy = float32_copy(model)
    assert half_precision_layers(copy) == []
    assert not graph_dtypes(copy) & {"float16", "bfloat16"}
    for ours, theirs in zip(copy.get_weights(), before):
        np.testing.assert_array_equal(ours, theirs)
    x = rng.normal(size=(2, 4)).astype(np.float32)
    w = [np.asarray(value, np.float64) for value in before]
    expected = ((x @ w[0] + w[1]) @ w[2] + w[3]) @ w[4] + w[5]
    np.testing.assert_allclose(copy(x), expected, rtol=1e-5, atol=1e-6)
    # The original and the global policy stay; the graph of one has 16 bits.
    assert {"deep", "inner", "own"} <= set(half_precision_layers(model))
    assert "bfloat16" in graph_dtypes(model)
    assert keras.mixed_precision.global_policy().name == "bfloat16"
    copy.set_weights([np.zeros_like(value) for value in copy.get_weights()])
    for ours, theirs in zip(model.get_weights(), before):
        np.testing.assert_array_equal(ours, theirs)
    assert copy.name == model.name
    assert [layer.name for layer in copy.layers] == [la.name for la in model.layers]


def test_a_layer_that_stays_half_precision_is_named():
    inputs = keras.layers.Input((4,))
    model = keras.Model(inputs, Stubborn(2, name="stubborn")(inputs))
    refused("`model` must take.*rebuild: stubborn$", float32_copy, model)
