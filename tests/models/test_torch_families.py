"""Every family gives the embeddings of its definition; everything else is refused."""

import functools
import re

import numpy as np
import pytest
import torch_networks
from refusals import refused
from torch_networks import State

from ekd_tf.models import ir
from ekd_tf.models import iresnet
from ekd_tf.models.torch_families import build_from_torch
from ekd_tf.models.torch_families import load_torch_weights
from ekd_tf.models.torch_families import recognise

NETWORKS = {
    "insightface_r18": torch_networks.iresnet,
    "insightface_mbf": torch_networks.mbf,
    "insightface_mbf_large": functools.partial(torch_networks.mbf, scale=4),
    "tface_ir_18": torch_networks.ir,
    "tface_ir_152": functools.partial(torch_networks.ir, bottleneck=True),
}


@pytest.fixture
def short(rng, short_networks):
    """Returns `family -> State`, of a block or two a stage."""
    return lambda family: State(rng, NETWORKS[family], blocks=short_networks(family))


def check(model, expected, images):
    embeddings = model(images, training=False)
    tolerance = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(embeddings, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("family", NETWORKS)
def test_gives_the_embeddings_of_the_definition(family, short, images):
    state = short(family)
    last = max(state)
    assert recognise(key for key in state if key != last) == family
    model = build_from_torch(family, state)
    check(model, state.embed(images), images)
    assert model.input_shape == (None, 32, 32, 3)
    assert not model.trainable_variables


def test_mobilefacenet_gives_upstream_embeddings(golden_arrays):
    arrays = golden_arrays("mobilefacenet_tface.npz")
    expected, images = arrays.pop("embeddings"), arrays.pop("images")
    state = {key[len("weight/") :]: array for key, array in arrays.items()}
    assert recognise(state) == "tface_mobilefacenet"
    embeddings = build_from_torch("tface_mobilefacenet", state)(images)
    np.testing.assert_allclose(embeddings, expected, atol=1e-4)


def test_a_last_normalisation_that_learned_is_kept(short, images):
    state = short("tface_ir_18")
    plain = state.embed(images)
    scale, offset = np.linspace(1, 2, 6), np.linspace(-1, 1, 6)
    state["output_layer.4.weight"] = scale.astype(np.float32)
    state["output_layer.4.bias"] = offset.astype(np.float32)
    expected = plain * scale + offset
    check(build_from_torch("tface_ir_18", state), expected, images)


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


def test_sizes_are_those_of_the_arrays(short):
    state = short("tface_ir_18")
    state["output_layer.3.weight"] = np.ones((6, 64 * 3 * 3), np.float32)
    assert build_from_torch("tface_ir_18", state).input_shape == (None, 48, 48, 3)


def test_rejects_what_does_not_fit_and_says_whose_weights_they_are(short):
    state = short("tface_ir_18")
    flat = {**state, "input_layer.0.weight": np.ones((8, 27))}
    headless = {k: v for k, v in state.items() if k != "output_layer.3.weight"}
    for family, given, words in (
        ("tface_ir_18", headless, "`output_layer.3.weight` with 2 dim.*no such key"),
        ("tface_ir_18", flat, r"'tface_ir_18' must hold .*4 dim.*shape=\(8, 27\)"),
        ("tface_ir_50", state, "keys are those of 'tface_ir_18'. .*: 'tface_ir_50'"),
        ("insightface_50", {}, "Did you mean 'insightface_r50'"),
    ):
        refused(words, build_from_torch, family, given)
    refused("'rgb', 'bgr'", build_from_torch, "insightface_r50", {}, "grb")


TINY = {"depth": 18, "embedding_dim": 6, "width": 0.125, "input_size": 32}


def test_rejects_arrays_that_do_not_fit_and_changes_nothing(rng):
    model = iresnet.IResNet(**TINY)
    state = State(rng, torch_networks.iresnet, blocks=(2, 2, 2, 2))
    before = model.get_weights()
    for key, value, words in (
        ("layer1.0.bn1.bias", None, "Missing: layer1.0.bn1.bias. Unexpected: none."),
        ("fc2.weight", np.ones(3), "Missing: none. Unexpected: fc2.weight."),
        ("fc.weight", np.ones((6, 255)), "(256, 6). Received: shape=(6, 255)"),
        ("conv1.weight", np.ones((8, 27)), "(3, 3, 3, 8). Received: shape=(8, 27)"),
        ("fc.bias", np.full(6, np.nan), "`arrays['fc.bias']` must be finite."),
        ("features.weight", np.full(6, 1.5), "must be all 1"),
    ):
        given = {k: v for k, v in {**state, key: value}.items() if v is not None}
        refused(re.escape(words), load_torch_weights, model, given)
        for old, new in zip(before, model.get_weights()):
            np.testing.assert_array_equal(old, new)
