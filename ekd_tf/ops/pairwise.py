"""Pairs of rows: which there are, and how similar they are."""

import typing

import numpy as np
import tensorflow as tf

from ekd_tf.ops.numerics import num_rows

# Positive pairs are visited this many at a time at most: two gathers of 512-dim rows
# then take 8 MB.
MAX_CHUNK = 2048

# And at most this many for each query: a row has few partners in a large memory.
CHUNK_SHARE = 4

# Where the batch has up to this many pairs of rows per listed pair, multiplying all
# rows is faster than gathering the listed ones.
PRODUCT_SHARE = 64

# Squared distances below this share of the rows' squared lengths are rounding.
COINCIDING = 1e-5


class PositivePairs(typing.NamedTuple):
    """Every unordered pair of one identity, numbered from 0, without a list of them.

    How many there are is known only when running, while XLA wants static shapes and
    would reserve room for all batch^2 pairs. So the pairs are described by the rows in
    order of identity, and `pairs_at` works any of them out from its number.

    Attributes:
        order: Int32 `(batch,)`, row numbers sorted by label, then by source image.
        first_partner: Int32 `(batch,)`, for each sorted row the place in `order` of
            its first partner; the others follow it.
        first_number: Int32 `(batch,)`, number of each sorted row's first pair.
        num_pairs: Int32 scalar.
        labels: Int32 `(batch,)`, as given.
        image_ids: Integer `(batch,)`, as given; row numbers where all images differ.
        num_queries: Int or int32 scalar, rows that pair with all others; those behind
            them pair with these alone.
    """

    order: tf.Tensor
    first_partner: tf.Tensor
    first_number: tf.Tensor
    num_pairs: tf.Tensor
    labels: tf.Tensor
    image_ids: tf.Tensor
    num_queries: int


def positive_pairs(labels, image_ids=None, num_queries=None):
    """Numbers every unordered pair of the same identity.

    Args:
        labels: Integer tensor `(batch,)`.
        image_ids: Integer tensor `(batch,)` naming the source image of each row, or
            None. A pair of one source image says nothing and is left out. Only the
            low 32 bits are compared.
        num_queries: None, or int: rows from this one on, a memory, pair with the rows
            before it, of other images, and not with one another.

    Returns:
        `PositivePairs`.
    """
    labels = tf.cast(labels, tf.int32)
    rows = tf.range(tf.shape(labels)[0])
    keys = tf.cast(labels, tf.int64)
    if num_queries is not None:
        # Of an identity the queries come first: all its rows behind them are partners.
        keys = 2 * keys + tf.cast(rows >= num_queries, tf.int64)
    if image_ids is None:
        order = tf.argsort(keys)
        image_ids = rows
        first_partner = rows + 1
    else:
        keys = tf.bitwise.left_shift(keys, tf.constant(32, tf.int64))
        keys += tf.cast(image_ids, tf.int64) & 0xFFFFFFFF
        order = tf.argsort(keys)
        keys = tf.gather(keys, order)
        # Rows of one source image are neighbours: the first partner comes after them.
        first_partner = tf.searchsorted(keys, keys, side="right")
    in_order = tf.gather(labels, order)
    num_partners = tf.searchsorted(in_order, in_order, side="right") - first_partner
    if num_queries is None:
        num_queries = num_rows(labels)
    else:
        num_partners = tf.where(order < num_queries, num_partners, 0)
    return PositivePairs(
        order=order,
        first_partner=first_partner,
        first_number=tf.cumsum(num_partners, exclusive=True),
        num_pairs=tf.reduce_sum(num_partners),
        labels=labels,
        image_ids=image_ids,
        num_queries=num_queries,
    )


def all_pairs(batch):
    """Lists every unordered pair of rows, where that is short.

    Args:
        batch: Python int, or None for a batch size unknown while tracing.

    Returns:
        Int32 array `(batch * (batch - 1) / 2, 2)`, row numbers i < j; None for an
        unknown batch, for one of a single row, and for more than `MAX_CHUNK` pairs.
    """
    if batch is None or not 1 <= batch * (batch - 1) // 2 <= MAX_CHUNK:
        return None
    return np.stack(np.triu_indices(batch, 1), axis=1).astype(np.int32)


def differ(values, rows):
    """Returns whether an entry differs between the rows of each pair.

    Args:
        values: Integer tensor `(batch,)`.
        rows: Integer tensor or array `(num_pairs, 2)`.

    Returns:
        Bool tensor `(num_pairs,)`.
    """
    return tf.gather(values, rows[:, 0]) != tf.gather(values, rows[:, 1])


def pairs_at(pairs, numbers):
    """Returns the rows of positive pairs.

    Args:
        pairs: `PositivePairs`.
        numbers: Int32 tensor `(k,)` in [0, num_pairs). A number beyond gives an
            arbitrary pair of rows.

    Returns:
        Int32 tensor `(k, 2)`, row numbers i < j.
    """
    place = tf.searchsorted(pairs.first_number, numbers, side="right") - 1
    partner = tf.gather(pairs.first_partner, place)
    partner += numbers - tf.gather(pairs.first_number, place)
    partner = tf.minimum(partner, tf.shape(pairs.order)[0] - 1)
    left = tf.gather(pairs.order, place)
    right = tf.gather(pairs.order, partner)
    return tf.stack([tf.minimum(left, right), tf.maximum(left, right)], axis=1)


def list_pairs(pairs):
    """Lists all positive pairs, int32 `(num_pairs, 2)`, row numbers i < j.

    The length depends on the data, so this does not compile under XLA.
    """
    return pairs_at(pairs, tf.range(pairs.num_pairs))


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


def pair_similarity(embeddings, pairs, gallery=None):
    """Returns the cosine of each listed pair.

    Only the listed rows are read and only they receive a gradient.

    Args:
        embeddings: Float32 tensor `(batch, dim)` of unit length.
        pairs: Integer tensor `(num_pairs, 2)` of row numbers.
        gallery: None, or float32 tensor `(rows, dim)`: these embeddings again, and
            behind them rows without a gradient. The second of a pair may be one.

    Returns:
        Float32 tensor `(num_pairs,)`.
    """

    batch, num_pairs = embeddings.shape[0], pairs.shape[0]
    small = None not in (batch, num_pairs) and batch**2 <= PRODUCT_SHARE * num_pairs
    if small and gallery is None:

        @tf.custom_gradient
        def similarity_of_product(embeddings):
            def gradient(upstream):
                # One product instead of one for either factor. Each pair goes in
                # twice: for a small batch a transposition costs more.
                both = tf.concat([pairs, pairs[:, ::-1]], axis=0)
                weights = tf.scatter_nd(both, tf.tile(upstream, [2]), [batch, batch])
                return tf.matmul(weights, embeddings)

            return tf.gather_nd(similarity_matrix(embeddings), pairs), gradient

        return similarity_of_product(embeddings)

    # The gradient of `tf.gather` is sparse, and making it dense warns (and copies)
    # when the batch size is unknown while tracing.
    @tf.custom_gradient
    def similarity(embeddings):
        left = tf.gather(embeddings, pairs[:, 0])
        right = tf.gather(embeddings if gallery is None else gallery, pairs[:, 1])

        def gradient(upstream):
            rows = num_rows(embeddings)
            # Negative numbers are left out.
            of_right = tf.where(pairs[:, 1] < rows, pairs[:, 1], -1)
            upstream = upstream[:, None]
            return tf.math.unsorted_segment_sum(
                upstream * right, pairs[:, 0], rows
            ) + tf.math.unsorted_segment_sum(upstream * left, of_right, rows)

        return tf.reduce_sum(left * right, axis=-1), gradient

    return similarity(embeddings)


def sum_over_positive_pairs(
    function, student, teacher, pairs, thresholds, gallery=None
):
    """Sums a function of both models' cosines over all positive pairs.

    Visits the pairs in chunks of static size, so that memory does not grow with their
    number (a batch of one identity has batch^2 / 2) and XLA compiles it.

    Args:
        function: Maps the students' and the teachers' cosines, two float32 tensors
            `(chunk,)`, and `thresholds` to a float32 tensor `(chunk, columns)`.
        student: Float32 tensor `(batch, student_dim)` of unit length; with `gallery`
            the queries alone.
        teacher: Float32 tensor `(batch, teacher_dim)` of unit length, the rows behind
            the queries included. Receives no gradient, nor does any tensor `function`
            captures.
        pairs: `PositivePairs`.
        thresholds: Float32 tensor of any shape, given to `function`. Receives a
            gradient, as `student` does.
        gallery: None, or the student's rows that pairs name, as `pair_similarity`
            takes them.

    Returns:
        Float32 tensor `(columns,)`; zeros with a zero gradient without positive pairs.
    """
    teacher = tf.stop_gradient(teacher)

    def sum_of(rows, counted, student, thresholds):
        values = function(
            pair_similarity(student, rows, gallery),
            pair_similarity(teacher, rows),
            thresholds,
        )
        return tf.reduce_sum(tf.where(counted[:, None], values, 0.0), axis=0)

    batch = teacher.shape[0]
    rows = all_pairs(batch)
    if rows is not None:
        # A loop, and finding pairs by their numbers, cost a small batch dearly.
        rows = rows[rows[:, 0] < student.shape[0]]
        counted = ~differ(pairs.labels, rows) & differ(pairs.image_ids, rows)
        counted &= rows[:, 0] < pairs.num_queries
        return sum_of(rows, counted, student, thresholds)

    chunk = tf.minimum(num_rows(teacher), CHUNK_SHARE * pairs.num_queries)
    chunk = tf.minimum(chunk, MAX_CHUNK)
    if batch is not None and isinstance(pairs.num_queries, int):
        chunk = min(batch, CHUNK_SHARE * pairs.num_queries, MAX_CHUNK)

    def chunk_sum(start, student, thresholds):
        numbers = start + tf.range(chunk)
        # Beyond the last one the last again: the first of a pair must be a query.
        rows = pairs_at(pairs, tf.minimum(numbers, pairs.num_pairs - 1))
        return sum_of(rows, numbers < pairs.num_pairs, student, thresholds)

    def over_chunks(step, *initial):
        _, *totals = tf.while_loop(
            lambda start, *_: start < pairs.num_pairs,
            lambda start, *totals: (
                start + chunk,
                *(total + part for total, part in zip(totals, step(start))),
            ),
            (tf.constant(0), *initial),
            parallel_iterations=1,
        )
        return totals

    @tf.custom_gradient
    def total_sum(student, thresholds):
        def gradient(upstream):
            def step(start):
                with tf.GradientTape() as tape:
                    tape.watch([student, thresholds])
                    value = chunk_sum(start, student, thresholds)
                return tape.gradient(
                    value,
                    [student, thresholds],
                    output_gradients=upstream,
                    unconnected_gradients=tf.UnconnectedGradients.ZERO,
                )

            return over_chunks(step, tf.zeros_like(student), tf.zeros_like(thresholds))

        columns = function(tf.zeros([1]), tf.zeros([1]), thresholds).shape[-1]
        (total,) = over_chunks(
            lambda start: [chunk_sum(start, student, thresholds)], tf.zeros([columns])
        )
        return total, gradient

    return total_sum(student, thresholds)
