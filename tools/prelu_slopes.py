"""A PReLU network as one of fixed slopes; the arithmetic of `swap_activation.py`."""

from __future__ import annotations

import keras

from ekd_tf.checks import check_choice
from ekd_tf.checks import check_range
from ekd_tf.models.blocks import INITIAL_SLOPE
from ekd_tf.models.layers import PReLU

# Slope below 0 of what a PReLU can be swapped for.
SLOPES = {"relu": 0.0, "leaky_relu": INITIAL_SLOPE}


def prelu_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns the PReLU layers of a functional model, in order.

    Raises:
        ValueError: It has none, so that there is nothing to swap.
    """
    kinds = (PReLU, keras.layers.PReLU)
    layers = [layer for layer in model.layers if isinstance(layer, kinds)]
    if not layers:
        raise ValueError(
            f"`model` must have PReLU layers to swap. {model.name!r} has none"
        )
    return layers


def swap_prelu(model: keras.Model, activation: str) -> keras.Model:
    """Returns a copy of a functional model with every PReLU swapped.

    All other layers keep their names, settings and weights; the learned slopes are
    dropped. The copy's embeddings are not the model's: fine-tune it, or move the
    slopes to the new one first (`SlopeGlide`) so that they are.

    Args:
        model: A functional model with PReLU layers. Not changed.
        activation: "relu", or "leaky_relu" (slope 0.25).

    Raises:
        ValueError: Unknown activation, or no PReLU layer.
    """
    check_choice("activation", activation, tuple(SLOPES))
    swapped = {layer.name for layer in prelu_layers(model)}

    def clone(layer):
        if layer.name not in swapped:
            return type(layer).from_config(layer.get_config())
        if activation == "relu":
            return keras.layers.ReLU(name=layer.name)
        # Positional: the argument is called `alpha` in Keras 2.
        return keras.layers.LeakyReLU(SLOPES[activation], name=layer.name)

    copy = keras.models.clone_model(model, clone_function=clone)
    for layer in copy.layers:
        # Input layers may be renamed.
        if layer.weights:
            layer.set_weights(model.get_layer(layer.name).get_weights())
    return copy


class SlopeGlide:
    """Moves every PReLU slope of a model to that of a fixed activation, in a line.

    A network whose activations change at once has to be trained anew; one whose
    slopes move a little at each step follows. The slopes are frozen: the optimizer
    does not move them as well.

    Args:
        model: A functional model with PReLU layers; their slopes are changed.
        activation: As for `swap_prelu`, into which the model turns at `at(1)`.
    """

    def __init__(self, model: keras.Model, activation: str):
        check_choice("activation", activation, tuple(SLOPES))
        self._target = SLOPES[activation]
        self._slopes = []
        for layer in prelu_layers(model):
            layer.trainable = False
            self._slopes.append((layer.alpha, layer.alpha.numpy()))

    def at(self, fraction: float) -> None:
        """Sets the slopes to `start + fraction * (target - start)`, in [0, 1]."""
        check_range("fraction", fraction, low=0, high=1)
        for slope, start in self._slopes:
            slope.assign(start + fraction * (self._target - start))
