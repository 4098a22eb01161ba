"""Small numerically careful functions every loss is built from."""

import tensorflow as tf

# Squared distances below this share of the rows' squared lengths are rounding.
COINCIDING = 1e-5


def as_float32(values):
    """Returns what can be made a tensor as a float32 one, variables included.

    `tf.cast` alone gives a float32 variable back as the variable it is.

    Args:
        values: Tensor, `tf.Variable`, Keras variable or array, of any float dtype.

    Returns:
        Float32 tensor of the same shape.
    """
    return tf.cast(tf.convert_to_tensor(values), tf.float32)


def as_int32(values):
    """Returns what can be made a tensor as an int32 one, variables included.

    Args:
        values: Tensor, `tf.Variable`, Keras variable or array, of whole numbers.

    Returns:
        Int32 tensor of the same shape.
    """
    return tf.cast(tf.convert_to_tensor(values), tf.int32)


def num_rows(tensor):
    """Returns the first dimension: an int where tracing knows it, else a tensor.

    Args:
        tensor: Tensor of rank 1 or more.

    Returns:
        Int, or int32 scalar tensor.
    """
    known = tensor.shape[0]
    return tf.shape(tensor)[0] if known is None else known


def l2_normalize(embeddings, epsilon=1e-12):
    """Scales each row to unit length, in float32.

    Args:
        embeddings: Float tensor `(batch, dim)`.
        epsilon: Float: squared lengths below it count as `epsilon`, so that a zero
            row stays zero with a finite gradient.

    Returns:
        Float32 tensor `(batch, dim)`.
    """
    return tf.math.l2_normalize(as_float32(embeddings), axis=-1, epsilon=epsilon)


def safe_acos(cosine, epsilon=1e-6):
    """Returns the angle in radians with a finite gradient at cosine -1 and 1.

    Args:
        cosine: Float tensor of any shape.
        epsilon: Float: cosines are clipped to [-1 + epsilon, 1 - epsilon]; beyond
            it the gradient is zero.

    Returns:
        Tensor of the same shape in (0, pi).
    """
    return tf.acos(tf.clip_by_value(cosine, -1.0 + epsilon, 1.0 - epsilon))


def safe_sqrt(x):
    """Returns the square root, with gradient zero instead of infinite at zero.

    Args:
        x: Float32 tensor of any shape. Negative entries count as zero.

    Returns:
        Tensor of the same shape.
    """
    # The inner `where` keeps the infinite slope out of the product that the outer one
    # would make with zero.
    positive = x > 0
    return tf.where(positive, tf.sqrt(tf.where(positive, x, 1.0)), 0.0)


def tempered_sigmoid(x, temperature):
    """Returns sigmoid(x / temperature): a step at zero, softened.

    Args:
        x: Float32 tensor of any shape.
        temperature: Float > 0, in the unit of `x`. The slope is noticeable within
            about five temperatures of zero.

    Returns:
        Tensor of the same shape in [0, 1].
    """
    return tf.sigmoid(x / temperature)


def masked_mean(values, mask, axis=None):
    """Averages the entries a mask keeps; 0 with a zero gradient when it keeps none.

    Args:
        values: Float tensor of any shape. Entries left out must be finite.
        mask: Bool tensor of a shape that `values` broadcasts to.
        axis: Int, the axis to average over, or None for all.

    Returns:
        Float tensor of the shape of `mask` without `axis`; a scalar for None.
    """
    weights = tf.cast(mask, values.dtype)
    return tf.math.divide_no_nan(
        tf.reduce_sum(values * weights, axis), tf.reduce_sum(weights, axis)
    )


def similarity_matrix(embeddings):
    """Returns all cosines of unit rows, `(batch, batch)` float32."""
    return tf.matmul(embeddings, embeddings, transpose_b=True)


def squared_distances(embeddings):
    """Returns the squared Euclidean distance of all pairs of rows.

    Args:
        embeddings: Float32 tensor `(batch, dim)`.

    Returns:
        Float32 tensor `(batch, batch)` >= 0. Rows closer than 0.3 % of their distance
        from the batch's mean coincide within rounding: they have 0, and no gradient.
    """
    embeddings = embeddings - tf.reduce_mean(embeddings, axis=0)
    products = similarity_matrix(embeddings)
    lengths = tf.linalg.diag_part(products)
    lengths = lengths[:, None] + lengths[None, :]
    squares = lengths - 2.0 * products
    return tf.where(squares > COINCIDING * lengths, squares, 0.0)
