import itertools

import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.mining.negatives import GROUP
from ekd_tf.mining.negatives import NegativePairs
from ekd_tf.mining.negatives import NegativePairsOfQueries
from ekd_tf.mining.negatives import look_up
from ekd_tf.mining.negatives import survey
from ekd_tf.ops.ranking import NO_PAIR
from ekd_tf.ops.ranking import RankSearch


def batch_of(rng, rows, identities):
    embeddings = rng.normal(size=(rows, 5))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    labels = rng.integers(0, identities, rows).astype(np.int32)
    return np.float32(embeddings), labels


def read_all(pairs, embeddings, blocks):
    """Returns all entries of all blocks, and the positions of those that are pairs."""
    read = pairs.reader(tf.constant(embeddings))
    entries = np.concatenate([read(tf.constant(b)) for b in range(blocks)]).ravel()
    assert entries.size == blocks * pairs.num_groups * GROUP
    return entries, np.flatnonzero(entries > NO_PAIR)


@pytest.mark.parametrize(
    "rows, block_rows, blocks",
    [(1, 9, 1), (33, 33, 1), (34, 33, 3), (150, 60, 3), (150, 40, 7), (150, 1, 255)],
)
def test_every_negative_pair_is_in_one_block(rng, rows, block_rows, blocks):
    embeddings, labels = batch_of(rng, rows, identities=rows // 4 + 1)
    pairs = NegativePairs(tf.constant(labels), block_rows)
    assert pairs.num_blocks == blocks
    entries, positions = read_all(pairs, embeddings, blocks)
    found = pairs.pairs_at(tf.constant(positions, tf.int32)).numpy()
    expected = {
        (i, j)
        for i, j in itertools.combinations(range(rows), 2)
        if labels[i] != labels[j]
    }
    assert len(found) == len(expected)
    assert {tuple(pair) for pair in found} == expected
    cosines = np.sum(embeddings[found[:, 0]] * embeddings[found[:, 1]], axis=1)
    np.testing.assert_allclose(entries[positions], cosines, rtol=0, atol=1e-6)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    "queries, memory, blocks", [(1, 3, 1), (40, 0, 1), (30, 500, 1), (900, 700, 8)]
)
def test_every_negative_pair_of_queries_is_in_one_block(
    rng, queries, memory, blocks, known
):
    rows = queries + memory
    embeddings, labels = batch_of(rng, rows, identities=rows // 4 + 1)
    labels[queries:][rng.random(memory) < 0.2] = -1
    count = queries if known else tf.constant(queries)
    pairs = NegativePairsOfQueries(tf.constant(labels), count)
    assert pairs.num_blocks == blocks
    entries, positions = read_all(pairs, embeddings, blocks)
    i, j = pairs.pairs_at(tf.constant(positions, tf.int32)).numpy().T
    places = np.arange(rows)
    expected = labels[:queries, None] != labels[None, :]
    expected &= (places > places[:queries, None]) & (labels >= 0)
    found = np.zeros_like(expected)
    found[i, j] = True
    np.testing.assert_array_equal(found, expected)
    assert len(i) == expected.sum()
    cosines = np.sum(embeddings[i] * embeddings[j], axis=1)
    np.testing.assert_allclose(entries[positions], cosines, rtol=0, atol=1e-6)


def test_refuses_more_pairs_of_queries_than_int32_counts():
    with pytest.raises(ValueError, match="must fit int32. Received: 40000 rows, 60000"):
        NegativePairsOfQueries(tf.zeros([60000], tf.int32), 40000)


def test_an_unknown_batch_is_cut_as_a_known_one(rng):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)])
    def cut(labels):
        pairs = NegativePairs(labels, 20)
        return pairs.num_blocks, pairs.num_groups

    for rows in (1, 20, 21, 150, 400):
        pairs = NegativePairs(tf.zeros([rows], tf.int32), 20)
        blocks, groups = cut(tf.zeros([rows], tf.int32))
        assert (int(blocks), int(groups)) == (pairs.num_blocks, pairs.num_groups)


@pytest.mark.parametrize("keep", [True, False])
def test_blocks_are_counted_and_searched(rng, keep):
    embeddings, _ = batch_of(rng, 90, identities=90)
    labels = np.arange(90, dtype=np.int32)

    @tf.function
    def scan(embeddings, labels, groups):
        pairs = NegativePairs(labels, 20)
        read = pairs.reader(embeddings)
        histogram, maxima, read = survey(pairs, read, with_maxima=True, keep=keep)
        search = RankSearch(histogram, tf.constant([0, 400, 4004]))
        return histogram, maxima, *look_up(pairs, read, search, groups)

    groups = np.int32([3, 0, 10**6])
    histogram, maxima, cosines, entries = scan(embeddings, labels, groups)
    gram = np.float64(embeddings) @ np.float64(embeddings).T
    falling = np.sort(gram[np.triu_indices(90, 1)])[::-1]
    assert int(tf.reduce_sum(histogram)) == len(falling) == 4005
    np.testing.assert_allclose(np.max(maxima), falling[0], atol=1e-6)
    np.testing.assert_allclose(cosines, falling[[0, 400, 4004]], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(np.max(entries[:2], axis=1), maxima.numpy()[[3, 0]])
    np.testing.assert_array_equal(entries[2], np.full(GROUP, NO_PAIR))


def test_refuses_more_pairs_than_int32_counts():
    NegativePairs(tf.zeros([60_000], tf.int32), block_rows=256)
    with pytest.raises(ValueError, match="`labels` must have so few .* 70000 rows"):
        NegativePairs(tf.zeros([70_000], tf.int32), block_rows=256)
