"""torch.save's files without torch: exact values, and nothing that could run."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from ekd_tf.embedders.torch_zip import read_torch_zip


def expected():
    """The content of tests/golden/torch_checkpoint.pt, as its README tells it."""
    tens = np.arange(10, dtype=np.float32)
    return {
        "module.kernel": np.arange(54, dtype=np.float32).reshape(2, 3, 3, 3) / 8,
        "module.half": np.arange(5, dtype=np.float16) / 4,
        "module.brain": np.arange(4, dtype=np.float32) / 2,
        "module.turned": np.arange(12, dtype=np.float32).reshape(3, 4).T,
        "module.part": tens[3:7],
        "module.parameter": np.array([1.5, -2], np.float32),
        "module.bn.num_batches_tracked": np.array(7),
        "module.empty": np.zeros((0, 3), np.float32),
    }


def test_reads_what_torch_wrote(golden):
    content = read_torch_zip(golden / "torch_checkpoint.pt")
    state = content.pop("state_dict")
    assert content == {"epoch": 3, "lr": 0.1, "milestones": [8, 14]}
    assert list(state) == list(expected())
    for key, values in expected().items():
        assert state[key].dtype == values.dtype, key
        np.testing.assert_array_equal(state[key], values, strict=True)


class Calls:
    """Pickles as a call of a function with one argument."""

    def __init__(self, function, argument):
        self.call = (function, (argument,))

    def __reduce__(self):
        return self.call


def archive(path, pickled, compression=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("m/data.pkl", pickled)
        for name, content in members.items():
            file.writestr(f"m/{name}", content)
    return path


def test_runs_no_code_and_names_what_is_asked_for(tmp_path):
    target = tmp_path / "made"
    assert pickle.loads(pickle.dumps(Calls(str, "a"), 2)) == "a"
    for protocol in (0, 2, 4):
        pickled = pickle.dumps(Calls(io.FileIO, str(target)), protocol)
        path = archive(tmp_path / "m.pt", pickled)
        with pytest.raises(ValueError, match="which no tensor needs"):
            read_torch_zip(path)
        assert not target.exists()
    path = archive(tmp_path / "m.pt", pickle.dumps(Calls(eval, "1"), 2))
    with pytest.raises(ValueError, match=r"it asks for __builtin__\.eval, which no"):
        read_torch_zip(path)


TORCH = b"ctorch._utils\n_rebuild_tensor_v2\n"
FLOATS = (
    b"((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ"
)


def tensor(shape, strides, offset=0):
    """Returns the pickle of one tensor of the four floats of member data/0."""

    def numbers(values):
        return b"(" + b"".join(b"J" + np.int32(v).tobytes() for v in values) + b"t"

    place = b"J" + np.int32(offset).tobytes()
    body = TORCH + FLOATS + place + numbers(shape) + numbers(strides)
    return b"\x80\x02" + body + b"\x89Nt" + b"R."


def test_reads_a_tensor_made_by_hand(tmp_path):
    raw = np.arange(4, dtype="<f4").tobytes()
    path = archive(tmp_path / "m.pt", tensor((2, 2), (1, 2)), **{"data/0": raw})
    np.testing.assert_array_equal(read_torch_zip(path), [[0, 2], [1, 3]])


@pytest.mark.parametrize(
    ("pickled", "raw", "words"),
    [
        (tensor((5,), (1,)), b"\0" * 16, "a tensor beyond its numbers"),
        (tensor((2,), (1,), 3), b"\0" * 16, "a tensor beyond its numbers"),
        (tensor((2,), (-1,), 1), b"\0" * 16, "a tensor beyond its numbers"),
        (tensor((2,), (1, 1)), b"\0" * 16, "a tensor without numbers"),
        (tensor((1 << 20, 4), (0, 1)), b"\0" * 16, "unfolds to more than it is long"),
        (tensor((4,), (1,)), b"\0" * 12, "'data/0' holds 3 of 4 numbers"),
        (tensor((4,), (1,))[:-9], b"\0" * 16, "pickle: not enough data"),
        (b"\x80\x02]X\x01\0\0\0aX\x01\0\0\0bs.", b"", "it is damaged"),
    ],
)
def test_refuses_what_is_damaged(tmp_path, pickled, raw, words):
    path = archive(tmp_path / "m.pt", pickled, **{"data/0": raw})
    with pytest.raises(ValueError, match=words):
        read_torch_zip(path)


def test_refuses_archives_of_others(tmp_path):
    path = tmp_path / "m.pt"
    path.write_bytes(b"\x80\x02 an old file")
    with pytest.raises(ValueError, match="it is no file of torch.save since torch 1.6"):
        read_torch_zip(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("other", b"")
    with pytest.raises(ValueError, match="holds no data.pkl"):
        read_torch_zip(path)
    archive(path, pickle.dumps({}, 2), zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="'data.pkl' is compressed"):
        read_torch_zip(path)
    archive(path, pickle.dumps({}, 2), byteorder=b"big")
    with pytest.raises(ValueError, match="big-endian"):
        read_torch_zip(path)


def test_a_member_is_read_once_however_often_it_is_named(tmp_path):
    raw = np.arange(4, dtype="<f4").tobytes()
    one = tensor((4,), (1,))[2:-1]
    path = archive(tmp_path / "m.pt", b"(" + one * 2 + b"t.", **{"data/0": raw})
    assert [list(values) for values in read_torch_zip(path)] == [[0, 1, 2, 3]] * 2
    # Members that overlap announce more than the file holds.
    with zipfile.ZipFile(path, "a") as file:
        info = file.getinfo("m/data/0")
        info.file_size = 1 << 30
        file.comment = b"changed"
    with pytest.raises(ValueError, match="unfolds to more than it is long"):
        read_torch_zip(path)
