"""State_dicts from files, with torch and without."""

import logging
import pathlib
import pickle
import sys
import zipfile

import numpy as np
import pytest

from ekd_tf.embedders.torch_file import read_state_dict


@pytest.fixture(params=["torch", "without torch"])
def reader(request, monkeypatch):
    if request.param == "torch":
        pytest.importorskip("torch", reason="torch is not installed")
    else:
        monkeypatch.setitem(sys.modules, "torch", None)


@pytest.fixture
def notes(caplog):
    caplog.set_level(logging.INFO, logger="absl")
    return lambda: [record.getMessage() for record in caplog.records]


def test_takes_the_state_dict_out_of_a_checkpoint(golden, reader, notes):
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


class Touch:
    """Makes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_runs_no_code(tmp_path, reader):
    target = tmp_path / "made"
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as file:
        file.writestr("w/data.pkl", pickle.dumps(Touch(target), 2))
        file.writestr("w/version", "3\n")
        file.writestr("w/byteorder", "little")
    with pytest.raises(ValueError, match="cannot be loaded") as error:
        read_state_dict(tmp_path / "w.pt")
    assert len(str(error.value).splitlines()) == 1
    assert not target.exists()


def test_runs_no_code_of_an_npz(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.array([{}], object))
    with pytest.raises(ValueError, match="cannot be loaded: Object array"):
        read_state_dict(tmp_path / "w.npz")


def test_refuses_what_is_no_state_dict(tmp_path, reader):
    for content, words in (
        ({"epoch": 3, "lr": 0.1}, r"{'epoch': int, 'lr': float}"),
        (list(range(3)), "list"),
        ({}, "{}"),
        ({"state_dict": dict.fromkeys("abcdefg", 1)}, "'e': int} and 2 more"),
    ):
        with zipfile.ZipFile(tmp_path / "w.pt", "w") as file:
            file.writestr("w/data.pkl", pickle.dumps(content, 2))
            file.writestr("w/version", "3\n")
            file.writestr("w/byteorder", "little")
        with pytest.raises(ValueError, match="must hold a state_dict") as error:
            read_state_dict(tmp_path / "w.pt")
        assert words in str(error.value)


def test_refuses_what_is_no_file(tmp_path, reader):
    with pytest.raises(ValueError, match="none.pt does not exist"):
        read_state_dict(tmp_path / "none.pt")
    (tmp_path / "w.pt").write_bytes(b"no file of torch")
    with pytest.raises(ValueError, match="w.pt cannot be loaded: "):
        read_state_dict(tmp_path / "w.pt")


def test_says_what_else_can_be_done_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "w.pt").write_bytes(b"no file of torch")
    with pytest.raises(ValueError, match=r"With torch installed .*npz file"):
        read_state_dict(tmp_path / "w.pt")
