"""State_dicts from the files torch writes, read without torch."""

import pickle
import zipfile

import numpy as np
import torch_networks
from refusals import refused

from ekd_tf.embedders import TorchEmbedder
from ekd_tf.embedders import open_embedder
from ekd_tf.embedders.torch_file import read_state_dict
from ekd_tf.models import build_from_torch
from ekd_tf.models import ir


def test_reads_what_torch_wrote(golden, notes):
    path = golden / "torch_checkpoint.pt"
    state = read_state_dict(path)
    tens = np.arange(10, dtype=np.float32)
    # As tests/golden/README.md tells it; half precision becomes float32.
    expected = {
        "kernel": np.arange(54, dtype=np.float32).reshape(2, 3, 3, 3) / 8,
        "half": np.arange(5, dtype=np.float32) / 4,
        "brain": np.arange(4, dtype=np.float32) / 2,
        "turned": np.arange(12, dtype=np.float32).reshape(3, 4).T,
        "part": tens[3:7],
        "parameter": np.array([1.5, -2], np.float32),
        "bn.num_batches_tracked": np.array(7),
        "empty": np.zeros((0, 3), np.float32),
    }
    assert list(state) == list(expected)
    for key, values in expected.items():
        assert state[key].dtype == values.dtype, key
        np.testing.assert_array_equal(state[key], values, strict=True)
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


def archive(path, pickled, compression=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in {"data.pkl": pickled, **members}.items():
            file.writestr(f"m/{name}", content)
    return path


def refuses(words, *content, **members):
    """Checks that an archive of this content is refused; returns the text."""
    return refused(words, read_state_dict, archive(*content, **members))


def test_runs_no_code_and_names_what_is_asked_for(tmp_path):
    # More attacks: tests/files/test_restricted_pickle.py.
    attack = b"c__builtin__\neval\n(S'3 + 4'\ntR."
    assert pickle.loads(attack) == 7
    words = r"it asks for __builtin__\.eval, which no tensor needs"
    assert "\n" not in refuses(words, tmp_path / "m.pt", attack)
    np.savez(tmp_path / "w.npz", a=np.array([{}], object))
    refused("cannot be loaded: Object", read_state_dict, tmp_path / "w.npz")


TORCH = b"ctorch._utils\n_rebuild_tensor_v2\n"
FLOATS = (
    b"((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ"
)


def tensor(shape, strides, offset=0):
    """Returns the pickle of {"t": a tensor of the four floats of member data/0}."""

    def numbers(values):
        return b"(" + b"".join(b"J" + np.int32(v).tobytes() for v in values) + b"t"

    place = b"J" + np.int32(offset).tobytes()
    body = TORCH + FLOATS + place + numbers(shape) + numbers(strides) + b"\x89NtR"
    return b"\x80\x02}X\x01\0\0\0t" + body + b"s."


def test_reads_a_tensor_made_by_hand_and_a_member_once(tmp_path):
    raw = np.arange(4, dtype="<f4").tobytes()
    path = archive(tmp_path / "m.pt", tensor((2, 2), (1, 2)), **{"data/0": raw})
    np.testing.assert_array_equal(read_state_dict(path)["t"], [[0, 2], [1, 3]])
    one = tensor((4,), (1,))[3:-1]
    pickled = b"\x80\x02}" + one + one.replace(b"X\x01\0\0\0t", b"X\x01\0\0\0u") + b"."
    path = archive(tmp_path / "m.pt", pickled, **{"data/0": raw})
    state = read_state_dict(path)
    assert [list(state[key]) for key in "tu"] == [[0, 1, 2, 3]] * 2
    # Members that overlap announce more than the file holds.
    with zipfile.ZipFile(path, "a") as file:
        info = file.getinfo("m/data/0")
        info.file_size = 1 << 30
        file.comment = b"changed"
    refused("unfolds to more than it is long", read_state_dict, path)


def test_refuses_what_is_damaged(tmp_path):
    zeros = bytes(16)
    for pickled, raw, words in (
        (tensor((5,), (1,)), zeros, "a tensor beyond its numbers"),
        (tensor((2,), (1,), 3), zeros, "a tensor beyond its numbers"),
        (tensor((2,), (-1,), 1), zeros, "a tensor beyond its numbers"),
        (tensor((2,), (1, 1)), zeros, "a tensor without numbers"),
        (tensor((1 << 20, 4), (0, 1)), zeros, "unfolds to more than it is long"),
        (tensor((4,), (1,)), zeros[:12], "'data/0' holds 3 of 4 numbers"),
        (tensor((4,), (1,))[:-9], zeros, "it is damaged or no pickle"),
        (b"\x80\x02]X\x01\0\0\0aX\x01\0\0\0bs.", b"", "it is damaged"),
    ):
        refuses(words, tmp_path / "m.pt", pickled, **{"data/0": raw})


def test_a_flipped_bit_is_damage(tmp_path):
    raw = np.arange(4, dtype="<f4").tobytes()
    path = archive(tmp_path / "m.pt", tensor((4,), (1,)), **{"data/0": raw})
    whole = path.read_bytes()
    assert whole.count(raw) == 1
    at = whole.index(raw)
    path.write_bytes(whole[:at] + b"\x01" + whole[at + 1 :])
    refused("it is damaged: .*Bad CRC-32 for file 'm/data/0'", read_state_dict, path)


def test_refuses_archives_of_others(tmp_path):
    path = tmp_path / "w.pt"
    refused("w.pt does not exist", read_state_dict, path)
    path.write_bytes(b"\x80\x02 an old file")
    refused("w.pt .* no file of torch.save since", read_state_dict, path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("other", b"")
    refused("holds no data.pkl", read_state_dict, path)
    empty = pickle.dumps({}, 2)
    refuses("'data.pkl' is compressed", path, empty, zipfile.ZIP_DEFLATED)
    refuses("big-endian", path, empty, byteorder=b"big")


def test_refuses_what_is_no_state_dict(tmp_path):
    for content, words in (
        ({"epoch": 3, "lr": 0.1}, r"{'epoch': int, 'lr': float}"),
        (list(range(3)), "list"),
        ({}, "{}"),
        ({"state_dict": dict.fromkeys("abcdefg", 1)}, "'e': int} and 2 more"),
    ):
        pickled = pickle.dumps(content, 2)
        text = refuses("must hold a state_dict", tmp_path / "w.pt", pickled)
        assert words in text


def test_embeds_as_the_backbone_does_in_either_order_of_colours(
    tmp_path, rng, monkeypatch
):
    # An IR_18 of one block a stage.
    monkeypatch.setitem(ir.IR_BLOCKS, 18, (1, 1, 1, 1))
    state = torch_networks.State(rng, torch_networks.ir, blocks=(1, 1, 1, 1))
    path = tmp_path / "w@1.npz"
    np.savez(path, **state)
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
    refused("w@1.npz: .*'tface_ir_18'", open_embedder, f"insightface_r50:{path}")
    refused("no.pt does not exist", open_embedder, "tface_ir_18:no.pt")
