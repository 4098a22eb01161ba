import itertools

import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.mining import pairs as layout
from ekd_tf.mining.pairs import NO_PAIR
from ekd_tf.mining.pairs import NO_ROW
from ekd_tf.mining.pairs import NegativeBlocks
from ekd_tf.mining.pairs import pair_similarity
from ekd_tf.mining.pairs import pairs_at
from ekd_tf.mining.pairs import positive_pairs
from ekd_tf.mining.pairs import sum_over_positives


def pairs_np(labels, queries, image_ids=None, same=True):
    """All pairs of a query with a row behind it, by a double loop."""
    images = range(len(labels)) if image_ids is None else image_ids
    return {
        (i, j)
        for i, j in itertools.combinations(range(len(labels)), 2)
        if i < queries and NO_ROW not in (labels[i], labels[j])
        if (labels[i] == labels[j]) == same and (not same or images[i] != images[j])
    }


def listed(pairs):
    numbers = tf.range(pairs.num_pairs)
    found = pairs_at(pairs, numbers).numpy() if pairs.num_pairs else np.zeros((0, 2))
    assert len({tuple(sorted(pair)) for pair in found}) == len(found)
    return found


def unit(rng, rows, dim):
    x = rng.normal(size=(rows, dim))
    return np.float32(x / np.linalg.norm(x, axis=1, keepdims=True))


def gallery_of(rng, queries, memory, identities):
    """Labels, some rows of the memory missing, and image ids, some repeated."""
    labels = rng.integers(0, identities, queries + memory).astype(np.int32)
    labels[queries:][rng.random(memory) < 0.2] = NO_ROW
    return labels, rng.integers(0, queries + memory, queries + memory).astype(np.int32)


# --- which pairs there are


@pytest.mark.parametrize("with_images", [False, True])
@pytest.mark.parametrize("queries, memory", [(1, 0), (17, 0), (64, 0), (5, 30)])
def test_every_positive_pair_is_listed_once(rng, queries, memory, with_images):
    labels, images = gallery_of(rng, queries, memory, 5)
    images = images if with_images else None
    found = listed(positive_pairs(tf.constant(labels), queries, images))
    expected = pairs_np(labels, queries, images)
    assert {tuple(sorted(pair)) for pair in found} == expected
    assert (found[:, 0] < queries).all()


def test_image_ids_are_compared_by_their_low_32_bits():
    labels = tf.constant([2**30 - 1, 2**30 - 1, 0, 0])
    images = tf.constant([-1, 2**40, 2**40, 2**40 + 1], tf.int64)
    found = listed(positive_pairs(labels, 4, images))
    assert {tuple(sorted(pair)) for pair in found} == {(0, 1), (2, 3)}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    "queries, memory, count",
    [(1, 3, 1), (40, 0, 1), (41, 9, 3), (100, 0, 3), (150, 70, 5)],
)
def test_every_negative_pair_is_in_one_block(
    rng, monkeypatch, queries, memory, count, known
):
    monkeypatch.setattr(layout, "BLOCK_ROWS", 40)
    labels, _ = gallery_of(rng, queries, memory, 9)
    rows = unit(rng, len(labels), 6)
    num_queries = queries if known else tf.constant(queries)
    blocks = NegativeBlocks(tf.constant(labels), num_queries, [tf.constant(rows)])
    assert int(blocks.count) == count
    found = []
    for block in range(count):
        cosines = blocks.cosines(tf.constant(block))[0].numpy()
        of_query, others = (x.numpy() for x in blocks.pairs(tf.constant(block)))
        assert len(cosines) == int(blocks.num_groups)
        for group, entry in zip(*np.nonzero(cosines > NO_PAIR)):
            pair = of_query[group], others[group, entry]
            assert pair[0] < queries
            expected = rows[pair[0]] @ rows[pair[1]]
            np.testing.assert_allclose(cosines[group, entry], expected, atol=1e-6)
            found.append(tuple(sorted(pair)))
    assert len(set(found)) == len(found)
    assert set(found) == pairs_np(labels, queries, same=False)


# --- cosines of listed pairs


def test_gradient_of_cosines_computed_by_hand(run_as):
    # d (2 x0.x1 + 3 x0.x2 + 4 x1.x2), with row 2 behind the queries.
    gallery = np.float32([[1, 0], [0, 1], [5, 7]])
    pairs = tf.constant([[0, 1], [0, 2], [1, 2]])

    def grad(queries, gallery):
        with tf.GradientTape() as tape:
            tape.watch(queries)
            cosines = pair_similarity(queries, gallery, pairs)
            value = tf.reduce_sum(cosines * [2.0, 3.0, 4.0])
        return cosines, tape.gradient(value, queries)

    cosines, result = run_as(grad)(tf.constant(gallery[:2]), tf.constant(gallery))
    np.testing.assert_array_equal(cosines, [0, 5, 7])
    np.testing.assert_array_equal(result, [[15, 23], [22, 28]])


# --- sums over all positive pairs


def mix(student, teacher, thresholds):
    """A value and two counts that need both cosines."""
    values = student**2 * teacher - thresholds[0] * student
    counts = tf.stack([tf.sin(3 * student) + teacher, tf.ones_like(student)], axis=1)
    return values, counts


@pytest.mark.parametrize("chunk", [2, 2048])
@pytest.mark.parametrize("queries, memory", [(13, 0), (7, 30)])
def test_sum_matches_a_loop_over_pairs(
    rng, run_as, monkeypatch, queries, memory, chunk
):
    monkeypatch.setattr(layout, "MAX_CHUNK", chunk)
    labels, _ = gallery_of(rng, queries, memory, 4)
    student = unit(rng, len(labels), 5)
    teacher = unit(rng, len(labels), 3)
    thresholds = tf.constant([0.25, 7.0])

    def total(rows, student, teacher, labels, thresholds):
        positive = positive_pairs(labels, queries)
        with tf.GradientTape() as tape:
            tape.watch([rows, student, teacher, thresholds])
            value, counts = sum_over_positives(
                mix, rows, student, teacher, positive, thresholds
            )
            doubled = 2.0 * value
        sources = [rows, thresholds, student, teacher]
        grads = tape.gradient(doubled, sources)
        assert grads[2:] == [None, None]
        return value, counts, *grads[:2]

    value, counts, grad, of_thresholds = run_as(total)(
        *map(tf.constant, (student[:queries], student, teacher, labels)), thresholds
    )
    s, t = np.float64(student), np.float64(teacher)
    expected, expected_grad = np.zeros(4), np.zeros((queries, 5))
    for i, j in pairs_np(labels, queries):
        a, b = s[i] @ s[j], t[i] @ t[j]
        expected += [a**2 * b - 0.25 * a, np.sin(3 * a) + b, 1, -2 * a]
        expected_grad[i] += 2 * (2 * a * b - 0.25) * s[j]
        if j < queries:
            expected_grad[j] += 2 * (2 * a * b - 0.25) * s[i]
    np.testing.assert_allclose(value, expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(counts, expected[1:3], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(of_thresholds, [expected[3], 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-4, atol=1e-5)


def test_sum_without_positive_pairs_is_zero(rng, run_as):
    rows = tf.constant(unit(rng, 6, 4))

    def total(rows):
        positive = positive_pairs(tf.range(6), 6)
        with tf.GradientTape() as tape:
            tape.watch(rows)
            value, counts = sum_over_positives(
                mix, rows, rows, rows, positive, tf.constant([0.25])
            )
        return value, counts, tape.gradient(value, rows)

    value, counts, grad = run_as(total)(rows)
    assert value == 0
    np.testing.assert_array_equal(counts, [0, 0])
    np.testing.assert_array_equal(grad, np.zeros((6, 4)))
