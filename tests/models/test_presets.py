"""Backbones by name, and what counts as a parameter."""

import keras
import pytest

from ekd_tf.models.presets import build_backbone
from ekd_tf.models.presets import count_parameters
from ekd_tf.models.presets import list_backbones

TINY = {"embedding_dim": 8, "width": 0.125, "input_size": 32}


def test_lists_every_backbone():
    assert list_backbones() == [
        "mobilefacenet",
        "iresnet18",
        "iresnet34",
        "iresnet50",
        "iresnet100",
        "iresnet200",
    ]


def test_unknown_name_lists_those_that_are_known():
    with pytest.raises(ValueError) as error:
        build_backbone("iresnet101")
    assert str(error.value) == (
        "`name` must be one of 'mobilefacenet', 'iresnet18', 'iresnet34', "
        "'iresnet50', 'iresnet100', 'iresnet200'. Received: 'iresnet101'. "
        "Did you mean 'iresnet100'?"
    )


def test_counts_what_is_learned_and_nothing_else():
    inputs = keras.Input(shape=(4, 4, 3))
    x = keras.layers.Conv2D(filters=5, kernel_size=3)(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(rate=0.5)(x)
    model = keras.Model(inputs, keras.layers.Flatten()(x))
    # Kernel and bias, scale and offset; two statistics and a seed left out.
    assert count_parameters(model) == (3 * 3 * 3 * 5 + 5) + 2 * 5
    model.trainable = False
    assert count_parameters(model) == 150
