"""tools/convert_weights.py: a torch state_dict becomes a `.keras` file."""

import pathlib
import sys

import numpy as np
import pytest
import torch_states
from commands import run

from ekd_tf.embedders import KerasEmbedder
from ekd_tf.models import build_from_torch
from ekd_tf.models import ir

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "convert_weights.py"
FAMILY = "tface_ir_18"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    state = torch_states.ir_state(np.random.default_rng(0), (1, 1, 1, 1))
    path = tmp_path_factory.mktemp("weights") / "w.npz"
    np.savez(path, **state)
    return state, path


@pytest.fixture
def tool(load_tool, monkeypatch):
    networks = load_tool("reference_networks")
    monkeypatch.setitem(ir.IR_BLOCKS, 18, (1, 1, 1, 1))
    monkeypatch.setitem(networks.IR_STAGES, FAMILY, (1, 1, 1, 1))
    return load_tool("convert_weights")


@pytest.fixture
def without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)


def test_writes_a_model_of_rgb_pixels(tool, weights, tmp_path, without_torch, capsys):
    state, path = weights
    out = tmp_path / "w.keras"
    tool.convert(FAMILY, path, out, "bgr")
    assert [file.name for file in tmp_path.iterdir()] == ["w.keras"]
    images = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    expected = build_from_torch(FAMILY, state)(images[..., ::-1])
    np.testing.assert_allclose(KerasEmbedder(out)(images), expected, atol=1e-4)
    told = capsys.readouterr().out
    assert "Not compared with torch, which is not installed" in told
    assert f"Wrote {out}: tface_ir_18" in told
    assert "uint8 RGB (32, 32, 3) -> (6,)" in told


def test_compares_with_torch_where_it_is_installed(tool, weights, tmp_path, capsys):
    pytest.importorskip("torch", reason="torch is not installed")
    tool.convert(FAMILY, weights[1], tmp_path / "w.keras", "bgr", count=3)
    assert "Largest difference from torch over 3 random" in capsys.readouterr().out


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_the_comparison_finds_one_wrong_weight(tool, weights, color):
    state, _ = weights
    model = build_from_torch(FAMILY, state, color)
    ops = torch_states.NumpyOps()
    told = tool.compare(model, state, FAMILY, color, 2, ops)
    assert "Largest difference from torch over 2 random images" in told
    weight = model.get_layer("body.2.res_layer.3").alpha
    weight.assign(weight + 0.1)
    with pytest.raises(ValueError, match="Nothing was written"):
        tool.compare(model, state, FAMILY, color, 2, ops)


def test_writes_nothing_it_does_not_trust(tool, weights, tmp_path, monkeypatch):
    out = tmp_path / "w.keras"
    with pytest.raises(ValueError, match=r"`output` must be a .keras file"):
        tool.convert(FAMILY, weights[1], tmp_path / "w.h5")
    with pytest.raises(ValueError, match=r"w.npz: `family` must be"):
        tool.convert("tface_ir_50", weights[1], out)
    assert not list(tmp_path.iterdir())


# Its fast siblings are above.
@pytest.mark.slow
def test_a_mistake_ends_in_one_line(tmp_path):
    done = run(
        TOOL, "--family=insightface_r50", "--weights=none.pt", "--output=w.keras"
    )
    assert done.returncode == 1
    assert "tools/convert_weights.py: none.pt does not exist" in done.stderr
    assert "Traceback" not in done.stderr
