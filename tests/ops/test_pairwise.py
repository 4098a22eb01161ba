import itertools
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from resident import forget_peak
from resident import resident_mb

from ekd_tf.ops import pairwise
from ekd_tf.ops.pairwise import list_pairs
from ekd_tf.ops.pairwise import pair_similarity
from ekd_tf.ops.pairwise import pairs_at
from ekd_tf.ops.pairwise import positive_pairs
from ekd_tf.ops.pairwise import similarity_matrix
from ekd_tf.ops.pairwise import squared_distances
from ekd_tf.ops.pairwise import sum_over_positive_pairs


def pairs_np(labels, image_ids=None):
    """All pairs of one identity and of two images, as a set, by a double loop."""
    images = range(len(labels)) if image_ids is None else image_ids
    return {
        (i, j)
        for i, j in itertools.combinations(range(len(labels)), 2)
        if labels[i] == labels[j] and images[i] != images[j]
    }


def sum_np(function, student, teacher, pairs):
    student, teacher = np.float64(student), np.float64(teacher)
    return sum(
        function(student[i] @ student[j], teacher[i] @ teacher[j]) for i, j in pairs
    )


def unit(rng, rows, dim):
    x = rng.normal(size=(rows, dim))
    return np.float32(x / np.linalg.norm(x, axis=1, keepdims=True))


# What `sum_over_positive_pairs` hands on: one for each column of `mix`.
THRESHOLDS = tf.constant([0.25, -0.5])


def mix(student, teacher, thresholds):
    """Two columns that need both cosines; the gradient of each differs."""
    columns = [student**2 * teacher, tf.sin(3 * student) + teacher]
    return tf.stack(columns, axis=1) - thresholds * student[:, None]


def mix_np(student, teacher):
    columns = np.array([student**2 * teacher, np.sin(3 * student) + teacher])
    return columns - np.array([0.25, -0.5]) * student


# --- which pairs there are


def test_pairs_computed_by_hand():
    pairs = positive_pairs([7, 5, 7, 5, 7, 9])
    listed = {tuple(pair) for pair in list_pairs(pairs).numpy()}
    assert listed == {(0, 2), (0, 4), (2, 4), (1, 3)}
    assert int(pairs.num_pairs) == 4


def test_pairs_of_one_source_image_are_left_out():
    # Rows 0, 1 show image 3 and rows 2, 3 image 8: only pairs across remain.
    pairs = positive_pairs([1, 1, 1, 1], [3, 3, 8, 8])
    listed = {tuple(pair) for pair in list_pairs(pairs).numpy()}
    assert listed == {(0, 2), (0, 3), (1, 2), (1, 3)}


def test_image_ids_of_other_identities_do_not_matter():
    pairs = positive_pairs([1, 2, 1, 2], [5, 5, 6, 6])
    assert {tuple(p) for p in list_pairs(pairs).numpy()} == {(0, 2), (1, 3)}


@pytest.mark.parametrize("with_images", [False, True])
@pytest.mark.parametrize("batch", [1, 2, 3, 17, 64])
def test_every_pair_is_listed_once(rng, batch, with_images):
    for identities in (1, 3, 40):
        labels = rng.integers(-2, identities - 2, batch).astype(np.int32)
        images = rng.integers(-5, 5, batch).astype(np.int32) if with_images else None
        listed = list_pairs(positive_pairs(labels, images)).numpy()
        assert listed.shape[1] == 2
        assert len({tuple(pair) for pair in listed}) == len(listed)
        assert {tuple(pair) for pair in listed} == pairs_np(labels, images)


@pytest.mark.parametrize("with_images", [False, True])
def test_rows_of_a_memory_pair_with_the_queries_alone(rng, with_images):
    for queries, memory in ((1, 1), (3, 40), (30, 9), (7, 0)):
        rows = queries + memory
        labels = rng.integers(-1, 5, rows).astype(np.int32)
        labels[:queries] = rng.integers(0, 5, queries)
        images = None
        if with_images:
            # No image is on both sides, and the queries' repeat.
            images = np.arange(rows, dtype=np.int32)
            images[:queries] = rng.integers(-5, -1, queries)
        pairs = positive_pairs(labels, images, queries)
        expected = {(i, j) for i, j in pairs_np(labels, images) if i < queries}
        listed = list_pairs(pairs).numpy()
        assert len(listed) == len(expected) == int(pairs.num_pairs)
        assert {tuple(pair) for pair in listed} == expected
        embeddings = tf.constant(unit(rng, rows, 4))
        (counted,) = sum_over_positive_pairs(
            lambda *_: tf.ones([_[0].shape[0], 1]),
            embeddings,
            embeddings,
            pairs,
            THRESHOLDS,
        )
        assert counted == len(expected)


def test_extreme_labels_and_wide_image_ids():
    low, high = np.iinfo(np.int32).min, np.iinfo(np.int32).max
    labels = np.array([low, high, low, high, low], np.int64)
    images = np.array([2**31 + 1, 5, -1, 6, -1], np.int64)
    pairs = list_pairs(positive_pairs(labels, images)).numpy()
    assert {tuple(pair) for pair in pairs} == {(0, 2), (0, 4), (1, 3)}


def test_numbers_beyond_the_last_pair_are_rows_of_the_batch(run_as, rng):
    labels = tf.constant(rng.integers(0, 4, 9).astype(np.int32))
    rows = run_as(lambda y: pairs_at(positive_pairs(y), tf.range(200)))(labels)
    assert rows.shape == (200, 2)
    assert np.min(rows) >= 0 and np.max(rows) < 9
    count = len(pairs_np(labels.numpy()))
    assert {tuple(pair) for pair in rows.numpy()[:count]} == pairs_np(labels.numpy())


def test_similarity_matrix(rng):
    rows = unit(rng, 4, 3)
    np.testing.assert_allclose(similarity_matrix(rows), rows @ rows.T, rtol=1e-5)


def test_no_rows_no_pairs():
    assert int(positive_pairs(tf.zeros([0], tf.int32)).num_pairs) == 0


# --- cosines of listed pairs


@pytest.fixture(params=["gathered rows", "product of all rows"])
def way(request, monkeypatch):
    share = {"gathered rows": 0, "product of all rows": 1000}[request.param]
    monkeypatch.setattr(pairwise, "PRODUCT_SHARE", share)


def test_cosines_of_listed_pairs(rng, run_as, way):
    rows, pairs = unit(rng, 6, 5), np.array([[0, 3], [5, 1], [2, 2]], np.int32)
    cosines = run_as(pair_similarity)(tf.constant(rows), tf.constant(pairs))
    np.testing.assert_allclose(cosines, [rows[i] @ rows[j] for i, j in pairs], 1e-5)


def test_gradient_of_cosines_computed_by_hand(run_as, way):
    # d (2 x0.x1 + 3 x0.x2) = (2 x1 + 3 x2, 2 x0, 3 x0); row 3 is in no pair.
    rows = np.float32([[1, 0], [0, 1], [5, 7], [8, 9]])

    def grad(rows, pairs):
        with tf.GradientTape() as tape:
            tape.watch(rows)
            value = tf.reduce_sum(pair_similarity(rows, pairs) * [2.0, 3.0])
        return tape.gradient(value, rows)

    result = run_as(grad)(tf.constant(rows), tf.constant([[0, 1], [0, 2]]))
    np.testing.assert_array_equal(result, [[15, 23], [2, 0], [3, 0], [0, 0]])


def test_rows_behind_the_batch_receive_no_gradient(run_as):
    # d (2 x0.x1 + 3 x0.x2 + 4 x1.x2), with row 2 behind the batch.
    gallery = np.float32([[1, 0], [0, 1], [5, 7]])
    pairs = tf.constant([[0, 1], [0, 2], [1, 2]])

    def grad(rows, gallery):
        with tf.GradientTape() as tape:
            tape.watch(rows)
            cosines = pair_similarity(rows, pairs, gallery)
            value = tf.reduce_sum(cosines * [2.0, 3.0, 4.0])
        return cosines, tape.gradient(value, rows)

    cosines, result = run_as(grad)(tf.constant(gallery[:2]), tf.constant(gallery))
    np.testing.assert_array_equal(cosines, [0, 5, 7])
    np.testing.assert_array_equal(result, [[15, 23], [22, 28]])


# --- sums over all positive pairs


@pytest.mark.parametrize("chunk", [2, 5, 2048])
def test_sum_matches_a_loop_over_pairs(rng, run_as, monkeypatch, chunk):
    monkeypatch.setattr(pairwise, "MAX_CHUNK", chunk)
    labels = rng.integers(0, 4, 13).astype(np.int32)
    student, teacher = unit(rng, 13, 5), unit(rng, 13, 3)

    def total(student, teacher, labels):
        pairs = positive_pairs(labels)
        with tf.GradientTape() as tape:
            tape.watch(student)
            value = sum_over_positive_pairs(mix, student, teacher, pairs, THRESHOLDS)
            weighted = tf.reduce_sum(value * [1.0, -2.0])
        return value, tape.gradient(weighted, student)

    value, grad = run_as(total)(
        tf.constant(student), tf.constant(teacher), tf.constant(labels)
    )
    pairs = pairs_np(labels)
    assert len(pairs) > chunk or chunk == 2048
    np.testing.assert_allclose(value, sum_np(mix_np, student, teacher, pairs), 1e-5)
    expected = np.zeros((13, 5))
    s, t = np.float64(student), np.float64(teacher)
    for i, j in pairs:
        a, b = s[i] @ s[j], t[i] @ t[j]
        slope = 2 * a * b - 0.25 - 2 * (3 * np.cos(3 * a) + 0.5)
        expected[i] += slope * s[j]
        expected[j] += slope * s[i]
    np.testing.assert_allclose(grad, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [(7, 20), (9, 60)], ids=["listed", "in chunks"])
def test_sum_over_pairs_with_rows_behind_the_batch(rng, run_as, monkeypatch, rows):
    # 69 rows have more pairs than are listed.
    batch, total = rows[0], sum(rows)
    monkeypatch.setattr(pairwise, "MAX_CHUNK", 400)
    monkeypatch.setattr(pairwise, "CHUNK_SHARE", 1)
    labels = rng.integers(0, 4, total).astype(np.int32)
    gallery, teacher = unit(rng, total, 5), unit(rng, total, 3)

    def grad(student, teacher, gallery):
        pairs = positive_pairs(labels, num_queries=batch)
        with tf.GradientTape() as tape:
            tape.watch(student)
            value = sum_over_positive_pairs(
                mix, student, teacher, pairs, THRESHOLDS, gallery
            )[0]
        return value, tape.gradient(value, student)

    value, gradient = run_as(grad)(
        *map(tf.constant, (gallery[:batch], teacher, gallery))
    )
    s, t = np.float64(gallery), np.float64(teacher)
    pairs = [(i, j) for i, j in pairs_np(labels) if i < batch]
    assert len(pairs) > batch
    np.testing.assert_allclose(value, sum_np(mix_np, s, t, pairs)[0], 1e-4)
    expected = np.zeros((batch, 5))
    for i, j in pairs:
        slope = 2 * (s[i] @ s[j]) * (t[i] @ t[j]) - 0.25
        expected[i] += slope * s[j]
        if j < batch:
            expected[j] += slope * s[i]
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


def test_thresholds_receive_the_gradient_of_all_pairs(rng, run_as, monkeypatch):
    monkeypatch.setattr(pairwise, "MAX_CHUNK", 2)
    labels = np.int32([0, 0, 1, 0, 1, 2])
    student, teacher = unit(rng, 6, 5), unit(rng, 6, 3)

    def grad(student, teacher, thresholds):
        with tf.GradientTape() as tape:
            tape.watch(thresholds)
            value = sum_over_positive_pairs(
                mix, student, teacher, positive_pairs(labels), thresholds
            )
            weighted = tf.reduce_sum(value * [1.0, -2.0])
        return tape.gradient(weighted, thresholds)

    # Column k loses threshold k times each cosine.
    total = sum(student[i] @ student[j] for i, j in pairs_np(labels))
    result = run_as(grad)(tf.constant(student), tf.constant(teacher), THRESHOLDS)
    np.testing.assert_allclose(result, [-total, 2 * total], rtol=1e-4)


def test_sum_without_positive_pairs_is_zero(rng, run_as):
    rows = tf.constant(unit(rng, 6, 4))

    def total(rows):
        with tf.GradientTape() as tape:
            tape.watch(rows)
            value = sum_over_positive_pairs(
                mix, rows, rows, positive_pairs(tf.range(6)), THRESHOLDS
            )
        return value, tape.gradient(value, rows)

    value, grad = run_as(total)(rows)
    np.testing.assert_array_equal(value, [0, 0])
    np.testing.assert_array_equal(grad, np.zeros((6, 4)))


def test_sum_gives_the_teacher_no_gradient(rng):
    student, teacher = tf.constant(unit(rng, 6, 4)), tf.constant(unit(rng, 6, 4))
    with tf.GradientTape() as tape:
        tape.watch(teacher)
        pairs = positive_pairs([0, 0, 1, 1, 1, 2])
        value = sum_over_positive_pairs(mix, student, teacher, pairs, THRESHOLDS)
    assert tape.gradient(value, teacher) is None


def test_batch_size_unknown_while_tracing(rng):
    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 4], tf.float32),
            tf.TensorSpec([None], tf.int32),
        ]
    )
    def total(rows, labels):
        with tf.GradientTape() as tape:
            tape.watch(rows)
            value = sum_over_positive_pairs(
                mix, rows, rows, positive_pairs(labels), THRESHOLDS
            )
        return value, tape.gradient(value, rows)

    for batch in (1, 5, 30):
        rows = unit(rng, batch, 4)
        labels = rng.integers(0, 3, batch).astype(np.int32)
        value, grad = total(rows, labels)
        expected = sum_np(mix_np, rows, rows, pairs_np(labels))
        np.testing.assert_allclose(value, np.zeros(2) + expected, rtol=1e-4, atol=1e-5)
        assert grad.shape == rows.shape and np.isfinite(grad).all()


def test_memory_of_one_identity_stays_that_of_a_chunk(rng):
    # 1,999,000 pairs of 64 dims would take a gigabyte if they were listed.
    if not pathlib.Path("/proc/self").is_dir():
        pytest.skip("only Linux tells a process's peak memory")
    rows = tf.constant(unit(rng, 2000, 64))

    @tf.function
    def total(rows):
        pairs = positive_pairs(tf.zeros([2000], tf.int32))
        return sum_over_positive_pairs(
            lambda s, t, _: s[:, None], rows, rows, pairs, THRESHOLDS
        )

    total.get_concrete_function(rows)
    # Else the peak is that of tests before, and nothing shows.
    before = forget_peak()
    value = total(rows)[0]
    used = resident_mb("VmHWM") - before
    gram = np.float64(rows) @ np.float64(rows).T
    np.testing.assert_allclose(value, np.triu(gram, 1).sum(), rtol=1e-3)
    assert used < 300, f"{used} MB"


def test_squared_distances_computed_by_hand(run_as):
    rows = tf.constant([[0.0, 0.0], [3.0, 4.0], [3.0, 0.0]])
    squares = run_as(squared_distances)(rows)
    expected = [[0, 25, 9], [25, 0, 16], [9, 16, 0]]
    np.testing.assert_allclose(squares, expected, rtol=1e-5)


def test_rows_that_coincide_have_distance_zero_and_no_gradient(run_as, rng):
    rows = rng.normal(size=(6, 32))
    rows[1], rows[2] = rows[0], rows[0] * (1 + 1e-4)
    # Far from the origin, where products of the rows as they are would cancel.
    rows = tf.constant(rows + 50.0, tf.float32)

    def step(rows):
        with tf.GradientTape() as tape:
            tape.watch(rows)
            squares = squared_distances(rows)
            near = squares[:3, :3]
        return squares, tape.gradient(near, rows)

    squares, gradient = run_as(step)(rows)
    np.testing.assert_array_equal(squares[:3, :3], np.zeros((3, 3)))
    np.testing.assert_array_equal(gradient, np.zeros((6, 32)))
    exact = np.float64(rows)
    exact = ((exact[:, None] - exact[None, :]) ** 2).sum(axis=2)
    np.testing.assert_allclose(squares[3:, 3:], exact[3:, 3:], rtol=1e-4)
    np.testing.assert_allclose(squares[0, 3:], exact[0, 3:], rtol=1e-4)
