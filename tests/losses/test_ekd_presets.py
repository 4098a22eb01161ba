import types

import pytest

from ekd_tf.losses.ekd_presets import PRESETS
from ekd_tf.losses.ekd_presets import check_reference
from ekd_tf.losses.ekd_presets import resolve_preset


def test_only_what_is_none_is_filled_in():
    resolved = resolve_preset("reference", temperature=0.5, thresholds=None, memory=0)
    assert resolved == {"temperature": 0.5, "thresholds": "ema", "memory": 0}
    assert resolve_preset(
        "default", threshold_gradient=None, bias_correction=False
    ) == {
        "threshold_gradient": True,
        "bias_correction": False,
    }


def test_presets_decide_the_same_arguments():
    assert PRESETS["default"].keys() == PRESETS["reference"].keys()


def test_an_unknown_preset_is_named():
    with pytest.raises(ValueError, match="`preset` must be one of.*Received: 'refer'"):
        resolve_preset("refer", temperature=None)


def test_the_reference_names_all_that_departs_from_it():
    loss = types.SimpleNamespace(
        **PRESETS["reference"],
        fprs=(1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6),
        num_negatives=2000,
        momentum=0.01,
        positive_weight=0.02,
        negative_weight=0.01,
    )
    check_reference(loss)
    loss.memory, loss.momentum = 8, 0.5
    with pytest.raises(ValueError, match=r"memory=8 \(reference: 0\), momentum=0.5"):
        check_reference(loss)
