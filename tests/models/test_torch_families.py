"""Every family gives the embeddings of its definition; everything else is refused."""

import numpy as np
import pytest
import torch_states

from ekd_tf.models import ir
from ekd_tf.models import mbf
from ekd_tf.models.torch_families import TORCH_FAMILIES
from ekd_tf.models.torch_families import build_from_torch
from ekd_tf.models.torch_families import recognise

MAKERS = {
    "insightface_r18": torch_states.iresnet_state,
    "insightface_mbf": torch_states.mbf_state,
    "tface_ir_18": torch_states.ir_state,
    "tface_mobilefacenet": torch_states.mobilefacenet_state,
}


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)


def check(model, expected, images):
    embeddings = model(images, training=False)
    tolerance = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(embeddings, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("family", MAKERS)
def test_gives_the_embeddings_of_the_definition(family, rng, images):
    state = MAKERS[family](rng)
    model = build_from_torch(family, state)
    expected = torch_states.reference_embeddings(family, state, images)
    check(model, expected, images)
    assert model.input_shape == (None, 32, 32, 3)
    assert not model.trainable_variables


def test_mbf_large_gives_the_embeddings_of_the_definition(monkeypatch, rng, images):
    blocks = (2, 1, 1, 1)
    monkeypatch.setitem(mbf.MBF_SIZES, "mbf_large", (blocks, 4))
    state = torch_states.mbf_state(rng, scale=4, blocks=blocks)
    family = "insightface_mbf_large"
    expected = torch_states.reference_embeddings(family, state, images)
    monkeypatch.setattr("ekd_tf.models.torch_families.recognise", lambda keys: family)
    check(build_from_torch(family, state), expected, images)


@pytest.fixture(params=["tface_ir_18", "tface_ir_152"])
def short_ir(request, monkeypatch, rng):
    """An IR network of one block a stage, and of an affine last normalisation."""
    family, depth = request.param, int(request.param[9:])
    monkeypatch.setitem(ir.IR_BLOCKS, depth, (1, 1, 1, 1))
    monkeypatch.setattr("ekd_tf.models.torch_families.recognise", lambda keys: family)
    channels = (32, 64, 128, 256) if depth == 152 else (8, 16, 32, 64)
    state = torch_states.ir_state(rng, (1, 1, 1, 1), channels, depth == 152)
    state["output_layer.4.weight"] = np.linspace(1, 2, 6, dtype=np.float32)
    state["output_layer.4.bias"] = np.linspace(-1, 1, 6, dtype=np.float32)
    networks = torch_states.reference_networks()
    networks.IR_STAGES[family] = (1, 1, 1, 1)

    def reference(images):
        return networks.embed(family, state, images, torch_states.NumpyOps())

    return family, state, reference


def test_short_and_affine_ir_gives_the_embeddings_of_the_definition(short_ir, images):
    family, state, reference = short_ir
    check(build_from_torch(family, state), reference(images), images)


def test_bgr_weights_make_a_model_of_rgb_images(short_ir, images):
    family, state, reference = short_ir
    expected = reference(images[..., ::-1])
    assert np.abs(expected - reference(images)).max() > 0.1
    kernel = state["input_layer.0.weight"].copy()
    check(build_from_torch(family, state, "bgr"), expected, images)
    np.testing.assert_array_equal(state["input_layer.0.weight"], kernel)


@pytest.mark.parametrize("family", MAKERS)
def test_keys_tell_the_family(family, rng):
    state = MAKERS[family](rng)
    assert recognise(state) == family
    last = max(state)
    assert recognise(key for key in state if key != last) == family


def test_keys_tell_the_depth():
    assert recognise(["other.weight"]) is None
    for depth, blocks in ir.IR_BLOCKS.items():
        keys = ["input_layer.0.weight", f"body.{sum(blocks) - 1}.res_layer.5.bias"]
        if depth > 101:
            keys.append("body.0.res_layer.7.weight")
        assert recognise(keys) == f"tface_ir_{depth}"
    for family, blocks in (
        ("insightface_r50", (3, 4, 14, 3)),
        ("insightface_r200", (6, 26, 60, 6)),
        (None, (3, 4, 5, 6)),
    ):
        keys = [f"layer{k}.{n - 1}.bn1.bias" for k, n in enumerate(blocks, start=1)]
        assert recognise(["conv1.weight", *keys]) == family
    keys = ["conv_sep.layers.0.weight", "layers.3.layers.7.layers.0.layers.0.weight"]
    assert recognise(keys) == "insightface_mbf_large"


def test_sizes_are_those_of_the_arrays(short_ir):
    family, state, _ = short_ir
    inputs = state["output_layer.0.bias"].size * 9
    state["output_layer.3.weight"] = np.ones((6, inputs), np.float32)
    assert build_from_torch(family, state).input_shape == (None, 48, 48, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: s.pop("body.1.res_layer.2.bias"),
            "Missing: body.1.res_layer.2.bias. Unexpected: none.",
        ),
        (
            lambda s: s.update({"body.0.se.fc": np.ones(1), "z": np.ones(1)}),
            "Missing: none. Unexpected: body.0.se.fc, z.",
        ),
        (
            lambda s: s.update({"body.0.res_layer.1.weight": np.ones((8, 8, 5, 5))}),
            "`arrays['body.0.res_layer.1.weight']` does not fit",
        ),
        (
            lambda s: s.pop("output_layer.3.weight"),
            "'tface_ir_18' must hold `output_layer.3.weight` with 2 dimensions. "
            "Received: no such key",
        ),
        (
            lambda s: s.update({"input_layer.0.weight": np.ones((8, 27))}),
            "`input_layer.0.weight` with 4 dimensions. Received: shape=(8, 27)",
        ),
    ],
    ids=["missing", "unexpected", "wrong shape", "no matrix", "flat kernel"],
)
def test_rejects_what_does_not_fit(monkeypatch, rng, change, words):
    family = "tface_ir_18"
    monkeypatch.setitem(ir.IR_BLOCKS, 18, (1, 1, 1, 1))
    monkeypatch.setattr("ekd_tf.models.torch_families.recognise", lambda keys: family)
    state = torch_states.ir_state(rng, (1, 1, 1, 1))
    change(state)
    with pytest.raises(ValueError) as error:
        build_from_torch(family, state)
    assert words in str(error.value)


def test_says_whose_weights_they_are(rng):
    with pytest.raises(ValueError) as error:
        build_from_torch("tface_ir_50", torch_states.ir_state(rng))
    assert str(error.value) == (
        "`family` must be that of the weights, whose keys are those of 'tface_ir_18'. "
        "Received: 'tface_ir_50'"
    )


def test_rejects_families_and_colours_there_are_not():
    with pytest.raises(ValueError, match="Did you mean 'insightface_r50'"):
        build_from_torch("insightface_50", {})
    with pytest.raises(ValueError, match="`color` must be one of 'rgb', 'bgr'"):
        build_from_torch("insightface_r50", {}, "grb")
    assert len(TORCH_FAMILIES) == 5 + 2 + 6 + 1
