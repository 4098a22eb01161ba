import keras
import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.evaluation import Embedder


def draw_images(rng, count, size=4):
    return rng.integers(0, 256, (count, size, size, 3), np.uint8)


def linear(images):
    """A model whose embedding depends on where a pixel is: no BN, no noise."""
    pixels = tf.cast(images, tf.float32) / 255.0
    weights = tf.reshape(tf.cos(tf.range(48 * 5, dtype=tf.float32)), [48, 5])
    return tf.reshape(pixels, [-1, 48]) @ weights


def linear_np(images):
    weights = np.cos(np.arange(48 * 5, dtype=np.float64)).reshape(48, 5)
    return images.reshape(-1, 48) / 255.0 @ weights


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_flip_adds_raw_embeddings_before_normalising(rng):
    images = draw_images(rng, 6)
    raw, mirrored = linear_np(images), linear_np(images[:, :, ::-1])
    embeddings = Embedder(linear)([images])
    np.testing.assert_allclose(embeddings, unit(raw + mirrored), atol=1e-5)
    # Adding unit vectors is another thing: the test would notice.
    assert np.abs(unit(unit(raw) + unit(mirrored)) - embeddings).max() > 1e-3
    embeddings = Embedder(linear, flip=False)([images])
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, unit(raw), atol=1e-5)


@pytest.mark.parametrize("sizes", [[4, 4, 3], [5, 6], [2, 0, 9]])
def test_cutting_into_batches_changes_nothing(rng, sizes):
    images = draw_images(rng, 11)
    batches = np.split(images, np.cumsum(sizes)[:-1])
    embeddings = Embedder(linear)(batches)
    assert embeddings.shape == (11, 5)
    np.testing.assert_allclose(embeddings, Embedder(linear)([images]), atol=1e-6)


def test_one_trace_for_all_batches_and_calls(rng):
    traced = []

    def model(images):
        traced.append(tuple(images.shape))
        return linear(images)

    embedder = Embedder(model)
    for _ in range(2):
        embedder(np.split(draw_images(rng, 10), [4, 8]))
    # Images and mirror images are of one shape.
    assert traced == [(4, 4, 4, 3)]


def test_keras_model_runs_in_inference_mode(rng):
    inputs = keras.Input((4, 4, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dropout(0.5)(x)
    outputs = keras.layers.BatchNormalization(center=False)(x)
    model = keras.Model(inputs=inputs, outputs=outputs)
    images = draw_images(rng, 5)
    keras.backend.clear_session()
    embeddings = Embedder(model, flip=False)([images])
    # BN at its first state divides by sqrt(1 + eps) only, which normalising undoes.
    np.testing.assert_allclose(
        embeddings, unit(images.reshape(5, -1).astype(float)), atol=1e-6
    )


def test_trained_weights_are_seen_without_a_new_trace(rng):
    weight = tf.Variable(tf.ones([48, 2]))
    images = draw_images(rng, 2)
    embedder = Embedder(
        lambda x: tf.reshape(tf.cast(x, tf.float32), [-1, 48]) @ weight, flip=False
    )
    np.testing.assert_allclose(embedder([images]), 0.5**0.5, atol=1e-6)
    weight.assign(tf.stack([tf.ones(48), tf.zeros(48)], axis=1))
    np.testing.assert_allclose(embedder([images]), [[1, 0]] * 2, atol=1e-6)


def test_half_precision_embeddings_are_added_in_float32(rng):
    def model(images):
        # 40000 + 40000 is above the largest float16.
        return tf.fill([tf.shape(images)[0], 4], tf.constant(40000.0, tf.float16))

    embeddings = Embedder(model)([draw_images(rng, 2)])
    np.testing.assert_allclose(embeddings, np.full((2, 4), 0.5), rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "complaint"), [(np.nan, "NaN or infinity"), (0.0, "zero norm")]
)
def test_names_rows_without_a_direction_counted_over_batches(rng, value, complaint):
    images = draw_images(rng, 10)
    images[:, 0, 0, 0] = 1
    images[[5, 6], 0, 0, 0] = 0

    def model(x):
        bad = x[:, 0, 0, 0] == 0
        return tf.where(bad[:, None], tf.constant(value, tf.float32), tf.ones([4, 3]))

    with pytest.raises(ValueError, match=f"2 of 10 rows.*{complaint}.*rows 5, 6$"):
        Embedder(model, flip=False)(np.split(images, [4, 8]))


def test_rejects_other_than_uint8_images(rng):
    for batch in (
        np.zeros((2, 4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((2, 4, 4, 1), np.uint8),
    ):
        with pytest.raises(ValueError, match="`batches` must hold uint8 images"):
            Embedder(linear)([batch])
    with pytest.raises(ValueError, match="`batches` must hold at least one image"):
        Embedder(linear)([])
    with pytest.raises(ValueError, match="`embeddings` must have 2 dimensions"):
        Embedder(lambda x: tf.cast(x, tf.float32))([draw_images(rng, 2)])
