"""Small numerically careful functions every loss is built from."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def as_float32(values: tf.Tensor | tf.Variable | np.ndarray) -> tf.Tensor:
    """Returns a tensor, variable or array of any float type as a float32 tensor.

    `tf.cast` alone gives a float32 variable back as the variable it is.
    """
    return tf.cast(tf.convert_to_tensor(values), tf.float32)


def as_int32(values: tf.Tensor | tf.Variable | np.ndarray) -> tf.Tensor:
    """Returns whole numbers as int32; one that does not fit is an error, not in XLA."""
    values = tf.convert_to_tensor(values)
    numbers = tf.cast(values, tf.int32)
    if values.dtype not in (tf.bool, tf.uint8, tf.int8, tf.uint16, tf.int16, tf.int32):
        given, taken = (tf.cast(x, tf.float64) for x in (values, numbers))
        words = "labels and ids must be whole numbers from -2^31 to below 2^31"
        tf.debugging.assert_equal(taken, given, words)
    return numbers


def num_rows(tensor: tf.Tensor) -> int | tf.Tensor:
    """Returns the first dimension: an int where tracing knows it, else int32."""
    known = tensor.shape[0]
    return tf.shape(tensor)[0] if known is None else known


def l2_normalize(embeddings: tf.Tensor) -> tf.Tensor:
    """Scales each row of `(batch, dim)` to unit length, in float32.

    A squared length counts as 1e-12 at least, so that a zero row stays zero with a
    finite gradient. One that overflows (a length above 1.8e19) makes the row zero.
    """
    return tf.math.l2_normalize(as_float32(embeddings), axis=-1, epsilon=1e-12)


def safe_acos(cosine: tf.Tensor) -> tf.Tensor:
    """Returns the angle in (0, pi) radians, with gradient zero within 1e-6 of 1, -1."""
    return tf.acos(tf.clip_by_value(cosine, -1.0 + 1e-6, 1.0 - 1e-6))


def safe_sqrt(x: tf.Tensor) -> tf.Tensor:
    """Returns the square root, 0 with gradient zero for x <= 0."""
    # The inner `where` keeps the infinite slope out of the product that the outer one
    # would make with zero.
    positive = x > 0
    return tf.where(positive, tf.sqrt(tf.where(positive, x, 1.0)), 0.0)


def masked_mean(
    values: tf.Tensor, mask: tf.Tensor, axis: int | None = None
) -> tf.Tensor:
    """Averages the entries a bool mask keeps; 0 with a zero gradient of none.

    `values` broadcast to the mask. Entries left out must be finite.
    """
    weights = tf.cast(mask, values.dtype)
    return tf.math.divide_no_nan(
        tf.reduce_sum(values * weights, axis), tf.reduce_sum(weights, axis)
    )


def similarity_matrix(embeddings: tf.Tensor) -> tf.Tensor:
    """Returns all cosines of unit rows, `(batch, batch)` float32."""
    return tf.matmul(embeddings, embeddings, transpose_b=True)
