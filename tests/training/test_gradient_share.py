import numpy as np
import pytest
import tensorflow as tf
from refusals import refused

from ekd_tf.training.gradient_share import GradientShare


def weights_of(layer, margin_norms, norms):
    return [
        float(layer(tf.constant(margin, tf.float32), tf.constant(norm, tf.float32)))
        for margin, norm in zip(margin_norms, norms)
    ]


def state(layer):
    return {v.name.split("/")[-1].split(":")[0]: float(v) for v in layer.weights}


def test_by_hand():
    # Averages with the newest step counting half: 2 and 4; then (2 + 2 * 5) / 3 = 4 and
    # (4 + 2 * 10) / 3 = 8; 0.5 * 4 / 8.
    layer = GradientShare(0.5)
    layer.momentum = 0.5
    got = weights_of(layer, [2, 5], [4, 10])
    np.testing.assert_allclose(got, [0.25, 0.25], rtol=1e-5)
    expected = {"margin_norm": 4, "norm": 8, "weight": 0.25, "num_steps": 2}
    assert state(layer) == pytest.approx(expected, rel=1e-5)


def test_grows_slowly_and_falls_at_once():
    layer = GradientShare(1.0)
    layer.momentum = 1.0
    got = weights_of(layer, [1] * 5, [1, 1e-6, 1e-6, 100, 1])
    np.testing.assert_allclose(got, [1, 1.1, 1.21, 0.01, 0.011], rtol=1e-5)


def test_one_step_receives_at_most_its_share_over_the_momentum():
    layer = GradientShare(0.3)
    layer.momentum = 0.1
    norms = [1e-9] * 40 + [1e9]
    assert weights_of(layer, [2] * 41, norms)[-1] * 1e9 <= 0.3 * 2 / 0.1 * 1.0001


@pytest.mark.parametrize(
    ("margin", "norm"), [(1, 0), (0, 1), (1, np.nan), (np.nan, 1), (np.inf, 1)]
)
def test_a_step_that_does_not_count_changes_nothing(margin, norm):
    fresh, used = GradientShare(0.3), GradientShare(0.3)
    assert weights_of(fresh, [margin], [norm]) == [0.0]
    (weight,) = weights_of(used, [2], [3])
    before = state(used)
    assert weights_of(used, [margin], [norm]) == [weight]
    assert state(used) == before
    # The first step that counts is the first, whatever was before it.
    assert weights_of(fresh, [2], [3]) == [weight]


def test_saves_the_share_and_says_where_it_is_wrong():
    layer = GradientShare(0.3, name="mine")
    again = GradientShare.from_config(layer.get_config())
    assert (again.share, again.name) == (0.3, "mine")
    refused(r"`share` must be in \(0, 10.0\]. Received: share=0", GradientShare, 0)
