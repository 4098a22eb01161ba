"""A backbone and batches small enough to trace in a second."""

import keras
import numpy as np
import tensorflow as tf

SIZE = 16


def backbone(dim=8, seed=0, batch_norm=True):
    """Returns a small convolutional embedder of 16x16 images."""
    keras.utils.set_random_seed(seed)
    images = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(images)
    x = keras.layers.Conv2D(6, 3, strides=2)(x)
    if batch_norm:
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(dim, dtype="float32")(x)
    return keras.Model(images, x)


def batch(rng, rows=8, identities=3):
    """Returns a batch dict with general and balanced rows and one repeated image."""
    image_ids = np.arange(rows, dtype=np.int32)
    image_ids[-1] = image_ids[0]
    labels = rng.integers(0, identities, rows).astype(np.int32)
    labels[-1] = labels[0]
    return {
        "image": tf.constant(rng.integers(0, 256, (rows, SIZE, SIZE, 3)), tf.uint8),
        "label": tf.constant(labels),
        "in_margin": tf.constant(np.arange(rows) % 2 == 0, tf.float32),
        "image_id": tf.constant(image_ids),
    }
