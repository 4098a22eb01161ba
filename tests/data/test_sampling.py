import collections

import numpy as np
from refusals import refused

from ekd_tf.data.sampling import BatchSampler
from ekd_tf.data.sampling import augment_draws
from ekd_tf.data.sampling import flip_mask


def labels_of(*counts):
    """Labels of identities with `counts` images each, shuffled over positions."""
    labels = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(5).permutation(labels).astype(np.int32)


def general_rows(sampler, steps):
    """The general rows of batches 0..steps-1, one after the other."""
    batches = [sampler.batch(i) for i in range(steps)]
    return np.concatenate([rows[margin == 1] for rows, margin in batches])


def balanced_rows(sampler, index):
    rows, margin = sampler.batch(index)
    return rows[margin == 0].reshape(sampler.identities, sampler.images_per_identity)


def test_batch_twice_is_equal_whatever_was_asked_between():
    used, first = BatchSampler(labels_of(*[3] * 20), 7, 3, seed=3), {}
    for i in (0, 8, 100, 5000, 5000, 0, 100, 8):
        fresh = BatchSampler(labels_of(*[3] * 20), 7, 3, seed=3).batch(i)
        for rows in (used.batch(i), fresh):
            for a, b in zip(rows, first.setdefault(i, rows)):
                np.testing.assert_array_equal(a, b)


def test_seeds_and_batches_differ():
    labels = labels_of(*[5] * 40)
    first, *others = (BatchSampler(labels, 32, 8, seed=seed) for seed in range(3))
    general = [general_rows(sampler, 1) for sampler in (first, *others)]
    balanced = [balanced_rows(first, index) for index in (0, 1, 2, 9)]
    balanced += [balanced_rows(sampler, 0) for sampler in others]
    for rows in (general, balanced):
        assert len({row.tobytes() for row in rows}) == len(rows)


def test_steps_per_epoch():
    for rows, steps in (((5, 0), 5), ((6, 2, 4), 4), ((25, 0), 1), ((0, 2, 5), 3)):
        assert BatchSampler(labels_of(12, 12), *rows).steps_per_epoch == steps


def test_identities_with_too_few_images_repeat_evenly():
    labels = labels_of(2, 3, 2)
    sampler = BatchSampler(labels, 0, 3, 4)
    seen = set()
    for i in range(50):
        for rows in balanced_rows(sampler, i):
            owner = labels[rows[0]]
            times = collections.Counter(rows.tolist())
            # 2 images in 4 places: twice each; 3 images: one of them twice.
            expected = [1, 1, 2] if owner == 1 else [2, 2]
            assert sorted(times.values()) == expected
            seen.add((owner, times.most_common(1)[0][0]))
    assert len({image for owner, image in seen if owner == 1}) == 3


def test_identities_and_images_are_drawn_uniformly():
    counts = [4, 5, 9, 2, 6, 3]
    labels = labels_of(*counts)
    sampler = BatchSampler(labels, 0, 2, 3)
    draws = np.concatenate([balanced_rows(sampler, i) for i in range(3000)])
    owners = np.bincount(labels[draws[:, 0]], minlength=6)
    # 6000 draws of 6 identities: 1000 each, standard deviation sqrt(3000 * 2/9) = 26.
    np.testing.assert_allclose(owners, 1000, atol=130)
    images = np.bincount(draws.reshape(-1), minlength=len(labels))
    expected = 3000 / np.take(counts, labels)
    # Of an identity in 3 places; at most 1000 * 1/4 variance and the identity's own.
    np.testing.assert_allclose(images, expected, rtol=0.25)


def test_single_images_come_only_when_there_are_not_enough_others():
    labels = labels_of(1, 3, 1, 3, 1, 3)
    sampler = BatchSampler(labels, 0, 3, 2)
    for i in range(20):
        assert sorted(labels[balanced_rows(sampler, i)[:, 0]]) == [1, 3, 5]
    sampler = BatchSampler(labels, 0, 5, 2)
    singles = set()
    for i in range(40):
        owners = labels[balanced_rows(sampler, i)[:, 0]]
        assert {1, 3, 5} < set(owners)
        assert len(set(owners)) == 5
        singles |= set(owners) - {1, 3, 5}
    assert singles == {0, 2, 4}


def test_general_and_balanced_streams_are_independent_of_flips():
    masks = [flip_mask(0, step, 64) for step in range(200)]
    np.testing.assert_array_equal(flip_mask(0, 7, 64), masks[7])
    assert masks[0].dtype == bool
    assert len({mask.tobytes() for mask in masks}) == 200
    assert not np.array_equal(flip_mask(1, 0, 64), masks[0])
    # 12800 fair coins: mean 1/2, standard deviation 0.0044.
    np.testing.assert_allclose(np.mean(masks), 0.5, atol=0.02)
    # The identity order of batch 0 comes from another stream of the same key.
    shuffled = BatchSampler(np.arange(64), 64, 0).batch(0)[0]
    drawn = np.random.Generator(np.random.Philox(key=np.array([0, 0], np.uint64)))
    np.testing.assert_array_equal(drawn.permutation(np.int32(range(64))), shuffled)
    assert not np.array_equal(drawn.random(64) < 0.5, masks[0])


def test_draws_of_augmentation_are_a_function_of_seed_step_and_row():
    draws = augment_draws(3, 7, 5, 4)
    assert draws.dtype == np.float32 and draws.shape == (5, 4)
    assert draws.min() >= 0 and draws.max() < 1
    np.testing.assert_array_equal(draws, augment_draws(3, 7, 5, 4))
    # A row is the same whatever number of rows follows.
    np.testing.assert_array_equal(draws[:2], augment_draws(3, 7, 2, 4))
    for other in (augment_draws(4, 7, 5, 4), augment_draws(3, 8, 5, 4)):
        assert not (draws == other).any()
    assert not np.array_equal(draws[:, 0] < 0.5, flip_mask(3, 7, 5))


def test_every_image_once_per_epoch_also_across_borders():
    # 12 images: general divides them, does not, equals them, spans several epochs.
    for general in (1, 4, 7, 12, 30):
        sampler = BatchSampler(labels_of(4, 4, 4), general, 0)
        epochs = general_rows(sampler, -(-60 // general))[:60].reshape(5, 12)
        for epoch in epochs:
            np.testing.assert_array_equal(np.sort(epoch), np.arange(12))
        assert len({tuple(epoch) for epoch in epochs}) == 5


def test_equal_shards_hold_the_same_mix():
    for general, identities, per_identity in (
        *((8, 2, 4), (64, 8, 4), (12, 1, 4), (4, 3, 4)),
        *((8, 0, 4), (0, 4, 4), (20, 4, 3)),
    ):
        sampler = BatchSampler(labels_of(*[5] * 10), general, identities, per_identity)
        rows, margin = sampler.batch(3)
        assert (rows.dtype, margin.dtype) == (np.int64, np.float32)
        assert len(rows) == sampler.batch_size == general + identities * per_identity
        for shards in (1, 2, 4):
            per_shard = margin.reshape(shards, -1).sum(axis=1)
            np.testing.assert_array_equal(per_shard, general / shards)


def test_identities_are_distinct_and_images_not_repeated():
    # No image has label 6.
    labels = labels_of(5, 6, 7, 8, 9, 10, 0, 5)
    for per_identity in (1, 2, 4, 5):
        sampler = BatchSampler(labels, 3, 4, per_identity)
        for i in range(50):
            rows = balanced_rows(sampler, i)
            owners = labels[rows]
            assert (owners == owners[:, :1]).all()
            assert len(set(owners[:, 0])) == 4
            assert len(np.unique(rows)) == rows.size


def test_rejects_impossible_arguments():
    valid = {"labels": labels_of(3, 1, 2), "general": 4, "identities": 2}
    for arguments, words in (
        ({"general": -1}, r"`general` must be in \[0, inf\). Received: general=-1"),
        ({"identities": -1}, r"`identities` must be in \[0, inf\)"),
        ({"images_per_identity": 0}, r"`images_per_identity` must be in \[1, inf\)"),
        ({"seed": -1}, r"`seed` must be in \[0, \d+\). Received: seed=-1"),
        ({"general": 0, "identities": 0}, "`general` or `identities` must be above 0"),
        ({"identities": 4}, "at most the number of identities with images, 3. Rec"),
        ({"labels": []}, r"`labels` must be a non-empty vector .*shape=\(0,\)"),
        ({"labels": [[0, 1]]}, r"`labels` must be a non-empty vector .*\(1, 2\)"),
        ({"labels": ["ann", "bob"]}, "vector of integers.*dtype=<U3"),
        ({"labels": [0, -1]}, r"`labels` must be in \[0, 16777216\)"),
        ({"general": 8.5}, "`general` must be a whole number"),
    ):
        refused(words, BatchSampler, **{**valid, **arguments})
