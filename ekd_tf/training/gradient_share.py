"""A weight that keeps a loss at a share of the margin loss's gradient."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from ekd_tf.checks import check_range
from ekd_tf.keras_compat import add_state
from ekd_tf.keras_compat import register

# Ten times the margin loss's gradient: 1000 %.
LARGEST_SHARE = 10.0


@register
class GradientShare(keras.layers.Layer):
    r"""Chooses the weight of a loss by the gradients it has on the embeddings.

    $$ w = s \, \overline{\lVert g_m \rVert} \, / \, \overline{\lVert g \rVert} $$

    with s the share, g the gradient of the loss, without its weight, and g_m that of
    the margin loss, with its weight, on the raw embeddings of the global batch, as one
    vector each. At 0.3 ("30 %") the loss pulls at the embeddings 0.3 times as strongly
    as the margin loss does, in whatever direction, and two losses 0.3 times each.

    The bars are averages over the steps that count, those whose norms are both finite
    and above 0, with weights that decay by `1 - momentum` a step and are normalised.
    The weight falls at once and grows by at most `max_growth` a step; a single step
    never receives more than `1 / momentum` times the share. Until the first step that
    counts the weight is 0.

    In a loop of your own:

        with tf.GradientTape() as network:
            embeddings = student(images, training=True)
        with tf.GradientTape(persistent=True) as losses:
            losses.watch(embeddings)
            margin = margin_loss(embeddings, labels)
            distilled = sum(ekd(embeddings, teacher(images), labels).values())
        margin_gradient = losses.gradient(margin, embeddings)
        ekd_gradient = losses.gradient(distilled, embeddings)
        weight = share(tf.norm(margin_gradient), tf.norm(ekd_gradient))
        gradients = network.gradient(
            embeddings,
            student.trainable_variables,
            margin_gradient + weight * ekd_gradient,
        )

    Args:
        share: Float in (0, 10].

    State, float32 scalars that are saved with the run:
        margin_norm, norm: The two averages.
        weight: In use.
        num_steps: Steps that counted.
    """

    # What the newest step counts in the averages.
    momentum = 0.01
    # Largest factor between the weights of two steps.
    max_growth = 1.1

    def __init__(self, share: float, name: str = "gradient_share", **kwargs: Any):
        super().__init__(**{**kwargs, "name": name, "dtype": "float32"})
        self.share = float(check_range("share", share, 0, LARGEST_SHARE, low_open=True))
        self.margin_norm = add_state(self, "margin_norm")
        self.norm = add_state(self, "norm")
        self.weight = add_state(self, "weight")
        self.num_steps = add_state(self, "num_steps")
        self.built = True

    def call(self, margin_norm: tf.Tensor, norm: tf.Tensor) -> tf.Tensor:
        """Takes one step's norms in, float32 scalars, and returns the weight to use."""
        counts = tf.math.is_finite(margin_norm) & tf.math.is_finite(norm)
        counts &= (margin_norm > 0) & (norm > 0)
        steps = self.num_steps + 1.0
        # As in EKD's thresholds: the decayed average divided by its sum of weights.
        newest = self.momentum / (1.0 - tf.pow(1.0 - self.momentum, steps))
        average_margin = self.margin_norm + newest * (margin_norm - self.margin_norm)
        average = self.norm + newest * (norm - self.norm)
        limit = tf.where(steps > 1, self.weight * self.max_growth, float("inf"))
        weight = tf.minimum(self.share * average_margin / average, limit)
        for variable, value in (
            (self.margin_norm, average_margin),
            (self.norm, average),
            (self.weight, weight),
            (self.num_steps, steps),
        ):
            variable.assign(tf.where(counts, value, variable))
        return tf.stop_gradient(tf.convert_to_tensor(self.weight))

    def get_config(self) -> dict:
        return {**super().get_config(), "share": self.share}
