"""Layers the backbones need and Keras lacks, or has only in a slow form."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from ekd_tf.keras_compat import IS_KERAS_3
from ekd_tf.keras_compat import register


@register
class PixelNormalization(keras.layers.Layer):
    """Maps pixels to `(pixel - mean) / scale`; the defaults map 0..255 to -1..1.

    The result has the layer's compute dtype; the arithmetic is float32 under every
    policy.
    """

    def __init__(
        self, mean: float = 127.5, scale: float = 127.5, **kwargs: Any
    ) -> None:
        # Float pixels would otherwise be rounded to half precision on entry.
        super().__init__(autocast=False, **kwargs)
        self.mean = float(mean)
        self.scale = float(scale)

    def call(self, pixels: tf.Tensor) -> tf.Tensor:
        normalised = (tf.cast(pixels, tf.float32) - self.mean) / self.scale
        return tf.cast(normalised, self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape

    def get_config(self) -> dict:
        return {**super().get_config(), "mean": self.mean, "scale": self.scale}


@tf.custom_gradient
def prelu(inputs: tf.Tensor, slope: tf.Tensor) -> tf.Tensor:
    """Returns `x` where `x > 0` and `slope * x` elsewhere.

    `slope` is float32 `(1, 1, channels)`. The gradients are those of torch: at `x = 0`
    that of the inputs is `slope` times the one from above. The slope's is summed and
    returned in float32.
    """
    # The one form that TFLite's converter fuses into its PRELU operator.
    below = tf.nn.relu(-inputs)
    outputs = tf.nn.relu(inputs) + (-tf.cast(slope, inputs.dtype)) * below
    return outputs, lambda upstream: _prelu_gradients(upstream, inputs, slope, -below)


@tf.custom_gradient
def prelu_in_training(inputs: tf.Tensor, slope: tf.Tensor) -> tf.Tensor:
    r"""Returns `prelu` up to rounding in three passes over memory, not five.

    Written as $x + (slope - 1) \min(x, 0)$; the gradients are the same.
    """
    below = tf.minimum(inputs, tf.zeros([], inputs.dtype))
    outputs = inputs + tf.cast(slope - 1.0, inputs.dtype) * below
    return outputs, lambda upstream: _prelu_gradients(upstream, inputs, slope, below)


def _prelu_gradients(upstream, inputs, slope, below):
    """Returns both gradients; `below` is the smaller of `inputs` and 0."""
    positive = tf.raw_ops.ReluGrad(gradients=upstream, features=inputs)
    negative = upstream - positive
    slope_gradient = tf.reduce_sum(
        tf.cast(upstream * below, tf.float32), axis=[0, 1, 2]
    )
    return (
        positive + tf.cast(slope, inputs.dtype) * negative,
        tf.reshape(slope_gradient, tf.shape(slope)),
    )


@register
class PReLU(keras.layers.Layer):
    """Applies `prelu` with one learned slope per channel.

    Equal to `keras.layers.PReLU(shared_axes=[1, 2])` in value and, but for inputs of
    exactly 0, in gradient. Its slopes, `alpha`, are float32 `(1, 1, channels)` under
    every policy and start at torch's 0.25. TFLite has one operation for it.
    """

    def __init__(self, initial_slope: float = 0.25, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.initial_slope = float(initial_slope)

    def build(self, input_shape: tuple) -> None:
        keep_float32 = "autocast" if IS_KERAS_3 else "experimental_autocast"
        self.alpha = self.add_weight(
            name="alpha",
            shape=(1, 1, input_shape[-1]),
            dtype="float32",
            initializer=keras.initializers.Constant(value=self.initial_slope),
            **{keep_float32: False},
        )
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        apply = prelu_in_training if training else prelu
        return apply(inputs, tf.convert_to_tensor(self.alpha))

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape

    def get_config(self) -> dict:
        return {**super().get_config(), "initial_slope": self.initial_slope}


@register
class NearestResize(keras.layers.Layer):
    """Resizes `(batch, rows, columns, channels)` to `size`, each pixel the nearest one.

    `keras.layers.Resizing` of Keras 3 has `training=True` for a default and hands it
    on: in a model that is called without `training`, all behind it would train.
    """

    def __init__(self, size: tuple[int, int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = tuple(size)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.image.resize(inputs, self.size, method="nearest")

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (input_shape[0], *self.size, input_shape[-1])

    def get_config(self) -> dict:
        return {**super().get_config(), "size": self.size}


@register
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization`, fused for images in training.

    Keras 3 computes moments, then normalises, in a dozen passes over memory; TensorFlow
    has one operation for both, which Keras 2 uses already. In inference, for frozen
    layers and for inputs that are no images, this is the Keras layer. As in Keras 2 and
    torch, the moving variance takes the unbiased estimate of the batch's.

    With several replicas each normalises by its own rows and keeps moving statistics of
    its own. Saved are those of the first on Keras 3, as torch's DistributedDataParallel
    does, and their mean on Keras 2. The state is float32 under every policy.
    """

    def __init__(self, **kwargs: Any) -> None:
        if IS_KERAS_3:
            # Statistics and scales stay float32 under half precision.
            kwargs = {**kwargs, "autocast": False}
        super().__init__(**kwargs)

    def call(
        self,
        inputs: tf.Tensor,
        training: bool | None = None,
        mask: tf.Tensor | None = None,
    ) -> tf.Tensor:
        fused = (
            IS_KERAS_3
            and training
            and self.trainable
            and mask is None
            and len(inputs.shape) == 4
        )
        if not fused:
            return super().call(inputs, training=training, mask=mask)
        channels = inputs.shape[-1]
        gamma = tf.ones([channels]) if self.gamma is None else self.gamma
        beta = tf.zeros([channels]) if self.beta is None else self.beta
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=tf.cast(inputs, self.compute_dtype),
            scale=tf.convert_to_tensor(gamma),
            offset=tf.convert_to_tensor(beta),
            mean=tf.constant([], tf.float32),
            variance=tf.constant([], tf.float32),
            epsilon=self.epsilon,
            is_training=True,
        )
        averages = (self.moving_mean, mean), (self.moving_variance, variance)
        for moving, batch in averages:
            difference = batch - tf.convert_to_tensor(moving)
            moving.assign_add((1.0 - self.momentum) * difference)
        return outputs
