"""Upstream weights give upstream embeddings; anything left over is an error."""

import numpy as np
import pytest
from torch_states import iresnet_state

from ekd_tf.models.iresnet import IResNet
from ekd_tf.models.mobilefacenet import MobileFaceNet
from ekd_tf.models.torch_families import load_torch_weights

TINY = {"depth": 18, "embedding_dim": 6, "width": 0.125, "input_size": 32}


@pytest.fixture(scope="module")
def upstream(golden_arrays):
    return golden_arrays("mobilefacenet_tface.npz")


def state_dict(upstream):
    prefix = "weight/"
    return {k[len(prefix) :]: v for k, v in upstream.items() if k.startswith(prefix)}


def test_mobilefacenet_gives_upstream_embeddings(upstream):
    model = MobileFaceNet()
    load_torch_weights(model, state_dict(upstream))
    embeddings = model(upstream["images"])
    np.testing.assert_allclose(embeddings, upstream["embeddings"], atol=1e-4)


def test_every_weight_of_the_model_is_replaced(rng):
    model = IResNet(**TINY)
    before = model.get_weights()
    load_torch_weights(model, iresnet_state(rng))
    for old, new in zip(before, model.get_weights()):
        assert np.all(old != new)


def altered(state, change):
    state = dict(state)
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: s.pop("layer1.0.bn1.bias"),
            "Missing: layer1.0.bn1.bias. Unexpected: none.",
        ),
        (
            lambda s: s.update({"fc2.weight": np.ones(3)}),
            "Missing: none. Unexpected: fc2.weight.",
        ),
        (
            lambda s: s.update({"prelu.weight": np.ones(9)}),
            "`arrays['prelu.weight']` does not fit the layer's weight (1, 1, 8). "
            "Received: shape=(9,)",
        ),
        (
            lambda s: s.update({"fc.weight": np.ones((6, 255))}),
            "`arrays['fc.weight']` does not fit the layer's weight (256, 6). "
            "Received: shape=(6, 255)",
        ),
        (
            lambda s: s.update({"fc.bias": np.full(6, np.nan)}),
            "`arrays['fc.bias']` must be finite. It holds NaN or inf.",
        ),
        (
            lambda s: s.update({"features.weight": np.full(6, 1.5)}),
            "`arrays['features.weight']` must be all 1: the reference does not train "
            "it and the layer has no scale. Received: values from 1.5 to 1.5",
        ),
        (
            lambda s: s.update({"conv1.weight": np.ones((8, 27))}),
            "`arrays['conv1.weight']` does not fit the layer's weight (3, 3, 3, 8). "
            "Received: shape=(8, 27)",
        ),
    ],
    ids=[
        "missing",
        "unexpected",
        "slope of another width",
        "matrix of another input size",
        "not finite",
        "trained scale",
        "flattened kernel",
    ],
)
def test_rejects_what_does_not_fit_and_changes_nothing(rng, change, words):
    model = IResNet(**TINY)
    before = model.get_weights()
    with pytest.raises(ValueError) as error:
        load_torch_weights(model, altered(iresnet_state(rng), change))
    assert words in str(error.value)
    for old, new in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, new)
