"""Batch normalisation in one fused operation while training."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from ekd_tf.keras_compat import IS_KERAS_3
from ekd_tf.keras_compat import register


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
