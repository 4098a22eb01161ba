"""State_dicts from the files torch writes, read without torch."""

import logging
import pathlib
import pickle
import zipfile

import numpy as np
import pytest
import torch_states

from ekd_tf.embedders import TorchEmbedder
from ekd_tf.embedders import open_embedder
from ekd_tf.embedders.torch_file import read_state_dict
from ekd_tf.models import build_from_torch
from ekd_tf.models import ir


@pytest.fixture
def notes(caplog):
    caplog.set_level(logging.INFO, logger="absl")
    return lambda: [record.getMessage() for record in caplog.records]


def test_takes_the_state_dict_out_of_a_checkpoint(golden, notes):
    path = golden / "torch_checkpoint.pt"
    state = read_state_dict(path)
    assert list(state)[:2] == ["kernel", "half"]
    np.testing.assert_array_equal(
        state["turned"], np.arange(12, dtype=np.float32).reshape(3, 4).T
    )
    for key in ("kernel", "half", "brain", "parameter", "empty"):
        assert state[key].dtype == np.float32, key
    np.testing.assert_array_equal(state["half"], np.arange(5) / 4)
    assert state["bn.num_batches_tracked"] == 7
    assert notes() == [
        f"{path}: taking the state_dict under 'state_dict'.",
        f"{path}: leaving out the prefix 'module.' of every key.",
    ]


def test_takes_the_arrays_of_an_npz(tmp_path, notes):
    np.savez(tmp_path / "w.npz", **{"a.weight": np.float16([1, 2]), "module.b": [3.0]})
    state = read_state_dict(tmp_path / "w.npz")
    assert state["a.weight"].dtype == np.float32
    # A prefix that not every key has is part of the names.
    assert list(state) == ["a.weight", "module.b"]
    assert notes() == []


def archive(path, content):
    """Writes a file as torch.save does."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("w/data.pkl", pickle.dumps(content, 2))
        file.writestr("w/version", "3\n")
        file.writestr("w/byteorder", "little")


class Touch:
    """Makes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_runs_no_code(tmp_path):
    target = tmp_path / "made"
    archive(tmp_path / "w.pt", Touch(target))
    with pytest.raises(ValueError, match="cannot be loaded") as error:
        read_state_dict(tmp_path / "w.pt")
    assert len(str(error.value).splitlines()) == 1
    assert not target.exists()


def test_runs_no_code_of_an_npz(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.array([{}], object))
    with pytest.raises(ValueError, match="cannot be loaded: Object array"):
        read_state_dict(tmp_path / "w.npz")


def test_refuses_what_is_no_state_dict(tmp_path):
    for content, words in (
        ({"epoch": 3, "lr": 0.1}, r"{'epoch': int, 'lr': float}"),
        (list(range(3)), "list"),
        ({}, "{}"),
        ({"state_dict": dict.fromkeys("abcdefg", 1)}, "'e': int} and 2 more"),
    ):
        archive(tmp_path / "w.pt", content)
        with pytest.raises(ValueError, match="must hold a state_dict") as error:
            read_state_dict(tmp_path / "w.pt")
        assert words in str(error.value)


def test_refuses_what_is_no_file(tmp_path):
    with pytest.raises(ValueError, match="none.pt does not exist"):
        read_state_dict(tmp_path / "none.pt")
    (tmp_path / "w.pt").write_bytes(b"no file of torch")
    with pytest.raises(ValueError, match="w.pt cannot be loaded: ") as error:
        read_state_dict(tmp_path / "w.pt")
    assert "no file of torch.save since torch 1.6" in str(error.value)
    assert "Save an older one again with a newer torch" in str(error.value)


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


def test_embeds_as_the_backbone_does_in_either_order_of_colours(weights, rng):
    state, path = weights
    images = rng.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    expected = build_from_torch("tface_ir_18", state)(images)
    teacher = open_embedder(f"tface_ir_18:{path}")
    np.testing.assert_allclose(teacher(images), expected, atol=1e-5)
    assert isinstance(teacher, TorchEmbedder)
    assert (teacher.input_size, teacher.embedding_dim) == (32, 6)
    assert teacher.traceable and teacher.name == str(path)
    assert not teacher.model.trainable_variables
    bgr = open_embedder(f"tface_ir_18:{path}@bgr")
    np.testing.assert_allclose(bgr(images[..., ::-1]), expected, atol=1e-4)
    assert np.abs(np.subtract(bgr(images), expected)).max() > 0.1
    assert bgr.fingerprint != teacher.fingerprint


def test_names_the_file_that_does_not_fit(weights):
    _, path = weights
    with pytest.raises(ValueError, match=r"w@1.npz: `family` must be .*'tface_ir_18'"):
        open_embedder(f"insightface_r50:{path}")
    with pytest.raises(ValueError, match="no.pt does not exist"):
        open_embedder("tface_ir_18:no.pt")
