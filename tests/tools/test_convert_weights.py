"""tools/convert_weights.py: a torch state_dict becomes a `.keras` file."""

import convert_weights as tool
import numpy as np
import pytest
import torch_networks
from refusals import refused

from ekd_tf.embedders import KerasEmbedder
from ekd_tf.models import build_from_torch
from ekd_tf.models import ir

FAMILY = "tface_ir_18"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    state = torch_networks.State(
        np.random.default_rng(0), torch_networks.ir, blocks=(1, 1, 1, 1)
    )
    path = tmp_path_factory.mktemp("weights") / "w.npz"
    np.savez(path, **state)
    return state, path


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setitem(ir.IR_BLOCKS, 18, (1, 1, 1, 1))


def test_writes_a_model_of_rgb_pixels(weights, tmp_path, capsys):
    state, path = weights
    out = tmp_path / "w.keras"
    tool.convert(FAMILY, path, out, "bgr")
    assert [file.name for file in tmp_path.iterdir()] == ["w.keras"]
    images = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    expected = build_from_torch(FAMILY, state)(images[..., ::-1])
    np.testing.assert_allclose(KerasEmbedder(out)(images), expected, atol=1e-4)
    told = capsys.readouterr().out
    assert f"Wrote {out}: tface_ir_18" in told
    assert "uint8 RGB (32, 32, 3) -> (6,)" in told


def test_writes_nothing_it_does_not_trust(weights, tmp_path):
    for family, output, words in (
        (FAMILY, "w.h5", r"`output` must be a .keras file"),
        ("tface_ir_50", "w.keras", r"w.npz: `family` must be"),
    ):
        refused(words, tool.convert, family, weights[1], tmp_path / output)
    assert not list(tmp_path.iterdir())
