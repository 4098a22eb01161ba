"""tools/convert_weights.py: a torch state_dict becomes a `.keras` file."""

import convert_weights as tool
import numpy as np
import torch_networks
from refusals import refused

from ekd_tf.embedders import KerasEmbedder
from ekd_tf.models import build_from_torch
from ekd_tf.models import ir

FAMILY = "tface_ir_18"


def test_writes_a_model_of_rgb_pixels_and_nothing_it_does_not_trust(
    rng, tmp_path, monkeypatch, capsys
):
    blocks = (1, 1, 1, 1)
    monkeypatch.setitem(ir.IR_BLOCKS, 18, blocks)
    state = torch_networks.State(rng, torch_networks.ir, blocks=blocks)
    path, out = tmp_path / "w.npz", tmp_path / "made" / "w.keras"
    np.savez(path, **state)
    out.parent.mkdir()
    for family, name, words in (
        (FAMILY, "w.h5", r"`output` must be a .keras file"),
        ("tface_ir_50", "w.keras", r"w.npz: `family` must be"),
    ):
        refused(words, tool.convert, family, path, out.with_name(name))
    assert not list(out.parent.iterdir())
    tool.convert(FAMILY, path, out, "bgr")
    assert list(out.parent.iterdir()) == [out]
    images = rng.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    expected = build_from_torch(FAMILY, state)(images[..., ::-1])
    np.testing.assert_allclose(KerasEmbedder(out)(images), expected, atol=1e-4)
    told = capsys.readouterr().out
    assert f"Wrote {out}: tface_ir_18" in told
    assert "uint8 RGB (32, 32, 3) -> (6,)" in told
