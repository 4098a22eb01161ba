import numpy as np
import pytest
import torch_states

from ekd_tf.embedders import TorchEmbedder
from ekd_tf.embedders import open_torch
from ekd_tf.models import build_from_torch
from ekd_tf.models import ir


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """An IR_18 of one block a stage: its arrays and a file of them."""
    patch = pytest.MonkeyPatch()
    patch.setitem(ir.IR_BLOCKS, 18, (1, 1, 1, 1))
    state = torch_states.ir_state(np.random.default_rng(0), (1, 1, 1, 1))
    path = tmp_path_factory.mktemp("weights") / "w@1.npz"
    np.savez(path, **state)
    yield state, path
    patch.undo()


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def teacher(weights):
    return TorchEmbedder("tface_ir_18", weights[1])


def test_embeds_as_the_backbone_does(weights, teacher, images):
    expected = build_from_torch("tface_ir_18", weights[0])(images)
    np.testing.assert_allclose(teacher(images), expected, atol=1e-5)
    assert (teacher.input_size, teacher.embedding_dim) == (32, 6)
    assert teacher.traceable and teacher.name == str(weights[1])
    assert not teacher.model.trainable_variables


def test_the_order_of_colours_stands_behind_the_file(weights, teacher, images):
    bgr = open_torch(f"tface_ir_18:{weights[1]}@bgr")
    np.testing.assert_allclose(bgr(images[..., ::-1]), teacher(images), atol=1e-4)
    assert np.abs(np.subtract(bgr(images), teacher(images))).max() > 0.1
    assert bgr.fingerprint != teacher.fingerprint


def test_a_file_may_have_an_at_sign_and_needs_no_colours(weights, teacher):
    assert open_torch(f"tface_ir_18:{weights[1]}").fingerprint == teacher.fingerprint


@pytest.mark.parametrize("spec", ["w.pt", "ir_18:w.pt", "a.onnx@0..1", "C:/w.keras"])
def test_leaves_everything_else_alone(spec):
    assert open_torch(spec) is None


def test_names_the_file_that_does_not_fit(weights):
    _, path = weights
    with pytest.raises(ValueError, match=r"w@1.npz: `family` must be .*'tface_ir_18'"):
        open_torch(f"insightface_r50:{path}")
    with pytest.raises(ValueError, match="no.pt does not exist"):
        open_torch("tface_ir_18:no.pt")
