"""Placing the margin, and the state and errors every head shares."""

import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.heads.arcface import ArcFace
from ekd_tf.heads.base import replace_targets
from ekd_tf.heads.cosface import CosFace


@pytest.fixture(params=[ArcFace, CosFace])
def head_class(request):
    return request.param


def test_replaces_the_labelled_entries_only(run_as):
    cosine = tf.constant([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    labels = tf.constant([2, 0])
    result = run_as(lambda c: replace_targets(c, labels, lambda t: 10.0 * t))(cosine)
    expected = [[0.1, 0.2, 3.0], [4.0, 0.5, 0.6]]
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_gradient_follows_the_replacement(run_as):
    # d/dc of 10 c is 10 at the labelled entries; the others pass through.
    def gradient(cosine):
        with tf.GradientTape() as tape:
            tape.watch(cosine)
            result = replace_targets(cosine, tf.constant([1, 1]), lambda t: 10.0 * t)
        return tape.gradient(result, cosine)

    found = run_as(gradient)(tf.zeros((2, 3)))
    np.testing.assert_array_equal(found, [[1, 10, 1], [1, 10, 1]])


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_takes_labels_of_any_integer_type(head_class, dtype):
    head = head_class(num_identities=3)
    embeddings = np.eye(2, 4, dtype=np.float32)
    plain = head(embeddings, np.int32([0, 2]))
    np.testing.assert_array_equal(head(embeddings, dtype([0, 2])), plain)


def test_centers_are_trainable_float32_and_start_near_zero(head_class):
    head = head_class(num_identities=400)
    head(np.ones((2, 32), np.float32), np.int32([0, 1]))
    assert tuple(head.centers.shape) == (400, 32)
    assert tf.as_dtype(head.centers.dtype) == tf.float32
    assert len(head.trainable_weights) == 1
    assert len(head.non_trainable_weights) == 0
    # 12,800 draws: the sample deviation is within 3 % of 0.01 by five sigma.
    values = tf.convert_to_tensor(head.centers).numpy()
    assert abs(values.std() - 0.01) < 3e-4
    assert abs(values.mean()) < 5e-4


def test_centers_are_saved_and_loaded(head_class, tmp_path, rng):
    embeddings = rng.normal(size=(3, 4)).astype(np.float32)
    labels = np.int32([0, 1, 4])
    head, other = (head_class(num_identities=5) for _ in range(2))
    expected = head(embeddings, labels)
    other(embeddings, labels)
    path = tf.train.Checkpoint(head=head).write(str(tmp_path / "head"))
    tf.train.Checkpoint(head=other).read(path).assert_consumed()
    np.testing.assert_array_equal(other(embeddings, labels), expected)


def test_every_identity_wins_on_its_own_centre(head_class):
    head = head_class(num_identities=6, scale=1.0)
    head.build((None, 6))
    head.centers.assign(np.eye(6, dtype=np.float32))
    logits = head(np.eye(6, dtype=np.float32), np.arange(6, dtype=np.int32)).numpy()
    np.testing.assert_array_equal(logits.argmax(axis=1), np.arange(6))
    assert np.all(np.diag(logits) < 1.0)


def test_float16_embeddings_are_taken_in_float32(head_class):
    # 300^2 overflows float16, and so would a norm computed in it.
    head = head_class(num_identities=2)
    half = head(np.float16([[300.0, 400.0]]), np.int32([1]))
    full = head(np.float32([[300.0, 400.0]]), np.int32([1]))
    np.testing.assert_allclose(half, full, rtol=1e-6)


@pytest.mark.parametrize("count", [1, 0, -3])
def test_rejects_fewer_than_two_identities(head_class, count):
    with pytest.raises(ValueError, match=r"`num_identities` must be in \[2, inf\)"):
        head_class(num_identities=count)


@pytest.mark.parametrize("scale", [0.0, -64.0])
def test_rejects_scale_that_is_not_positive(head_class, scale):
    with pytest.raises(ValueError, match=r"`scale` must be in \(0, inf\)\. Received: "):
        head_class(num_identities=3, scale=scale)


def test_rejects_embeddings_that_are_no_matrix(head_class):
    head = head_class(num_identities=3)
    head.build((None, 4))
    with pytest.raises(ValueError, match="`embeddings` must have 2 dimensions"):
        head(np.zeros((2, 1, 4), np.float32), np.int32([0, 1]))


def test_rejects_one_hot_labels(head_class):
    with pytest.raises(ValueError, match="`labels` must have 1 dimensions"):
        head_class(num_identities=3)(np.eye(2, 4, dtype=np.float32), np.eye(2, 3))


def test_rejects_labels_of_another_batch(head_class):
    with pytest.raises(ValueError, match="same batch.*embeddings=2, labels=3"):
        head_class(num_identities=3)(
            np.eye(2, 4, dtype=np.float32), np.int32([0, 1, 2])
        )
