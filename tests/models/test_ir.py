"""TFace's IR networks: shortcuts, size, saving. Values: test_torch_families.py."""

import keras
import pytest

from ekd_tf.models import ir
from ekd_tf.models.ir import IR
from ekd_tf.models.presets import count_parameters

TINY = {"embedding_dim": 6, "width": 0.125, "input_size": 32}


@pytest.fixture(scope="module", autouse=True)
def one_block_a_stage():
    patch = pytest.MonkeyPatch()
    patch.setitem(ir.IR_BLOCKS, 18, (1, 1, 1, 1))
    patch.setitem(ir.IR_BLOCKS, 152, (1, 1, 1, 1))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def tiny(one_block_a_stage):
    return IR(18, **TINY)


def block_size(inputs, outputs):
    # Scale and offset of three normalisations, a slope, two kernels; a kernel and a
    # normalisation of the shortcut where the number of channels changes.
    size = 2 * inputs + 9 * inputs * outputs + 2 * outputs + outputs
    size += 9 * outputs * outputs + 2 * outputs
    return size + (inputs * outputs + 2 * outputs if inputs != outputs else 0)


def test_size_is_that_of_the_definition(tiny):
    pairs = [(8, 8), (8, 16), (16, 32), (32, 64)]
    size = 27 * 8 + 2 * 8 + 8 + sum(block_size(*pair) for pair in pairs)
    size += 2 * 64 + 64 * 2 * 2 * 6 + 6
    assert count_parameters(tiny) == size
    assert tiny.name == "ir18"
    assert tiny.output_shape == (None, 6)


def test_a_shortcut_that_halves_the_image_alone_has_no_weights(tiny):
    shortcuts = [layer for layer in tiny.layers if "shortcut_layer" in layer.name]
    with_weights = sorted({s.name.split(".")[1] for s in shortcuts if s.weights})
    assert with_weights == ["1", "2", "3"]
    (pool,) = [s for s in shortcuts if isinstance(s, keras.layers.MaxPooling2D)]
    assert pool.name == "body.0.shortcut_layer"


def test_the_deepest_have_bottlenecks():
    model = IR(152, **TINY)
    kernels = {
        name: tuple(model.get_layer(f"body.3.{name}").kernel.shape)
        for name in ("res_layer.1", "res_layer.4", "res_layer.7", "shortcut_layer.0")
    }
    # 2048 / 8 outputs, a quarter of it inside, the stride in the last convolution.
    assert kernels == {
        "res_layer.1": (1, 1, 128, 64),
        "res_layer.4": (3, 3, 64, 64),
        "res_layer.7": (1, 1, 64, 256),
        "shortcut_layer.0": (1, 1, 128, 256),
    }
    assert model.get_layer("body.3.res_layer.7").strides == (2, 2)
