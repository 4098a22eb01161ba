import numpy as np
import tensorflow as tf
from refusals import refused

from ekd_tf.embedders import SavedModelEmbedder
from ekd_tf.embedders import open_embedder

MATRIX = np.cos(np.arange(48 * 5)).reshape(48, 5).astype(np.float32)


def save(path, dtype=tf.uint8, shape=(None, 4, 4, 3)):
    """Saves a model that embeds by `MATRIX`."""
    module = tf.Module()
    module.matrix = tf.Variable(MATRIX)

    def embed(pixels):
        rows = tf.reshape(tf.cast(pixels, tf.float32), [-1, 48])
        return {"embedding": rows @ module.matrix}

    module.embed = tf.function(embed, [tf.TensorSpec(shape, dtype, name="pixels")])
    tf.saved_model.save(module, str(path), signatures=module.embed)


def test_embeds_as_the_model_that_was_saved_and_gives_no_gradient(rng, tmp_path):
    save(tmp_path)
    model = SavedModelEmbedder(tmp_path)
    images = rng.integers(0, 256, (3, 4, 4, 3), np.uint8)
    expected = images.reshape(3, 48) @ MATRIX
    assert (model.input_size, model.embedding_dim) == (4, 5)
    for call in (model, tf.function(model)):
        np.testing.assert_allclose(call(tf.constant(images)), expected, rtol=1e-4)
    pixels = tf.constant(images, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        loss = tf.reduce_sum(model(pixels))
    assert tape.gradient(loss, pixels) is None
    # Its graph names it too.
    model = open_embedder(str(tmp_path / "saved_model.pb"))
    assert isinstance(model, SavedModelEmbedder) and model.name == str(tmp_path)


def test_float_channels_first_models_get_scaled_pixels_in_their_order(rng, tmp_path):
    save(tmp_path, tf.float32, (None, 3, 4, 4))
    model = SavedModelEmbedder(tmp_path, -1, 1, "bgr")
    images = rng.integers(0, 256, (2, 4, 4, 3), np.uint8)
    pixels = images[..., ::-1].transpose(0, 3, 1, 2).reshape(2, 48) / 127.5 - 1
    np.testing.assert_allclose(model(images), pixels @ MATRIX, rtol=1e-4, atol=1e-4)


def test_a_fixed_batch_is_filled_up(rng, tmp_path):
    save(tmp_path, tf.float32, (4, 4, 4, 3))
    model = SavedModelEmbedder(tmp_path)
    traced = tf.function(model, [tf.TensorSpec((None, 4, 4, 3), tf.uint8)])
    for count in (1, 4, 6):
        images = rng.integers(0, 256, (count, 4, 4, 3), np.uint8)
        expected = images.reshape(count, 48) @ MATRIX
        for call in (model, traced):
            np.testing.assert_allclose(call(tf.constant(images)), expected, rtol=1e-3)


def test_a_damaged_one_is_named_in_one_line(tmp_path):
    save(tmp_path)
    weights = next((tmp_path / "variables").glob("*.data*"))
    whole = weights.read_bytes()
    graph = tmp_path / "saved_model.pb"
    for path, content in ((weights, whole[:50]), (graph, b"nonsense" * 30)):
        weights.write_bytes(whole)
        path.write_bytes(content)
        text = refused(f"^{tmp_path} cannot be loaded: ", SavedModelEmbedder, tmp_path)
        assert "\n" not in text


def test_says_what_is_missing(tmp_path):
    tf.saved_model.save(tf.Module(), str(tmp_path / "none"))
    words = "must have an endpoint 'serving_default'"
    refused(words, SavedModelEmbedder, tmp_path / "none")
    refused("holds no saved_model.pb", SavedModelEmbedder, tmp_path)


def test_is_known_by_graph_and_weights_and_not_by_what_lies_beside_them(tmp_path):
    save(tmp_path)
    known = SavedModelEmbedder(tmp_path).fingerprint
    (tmp_path / "card.json").write_text("{}")
    assert SavedModelEmbedder(tmp_path).fingerprint == known
    assert SavedModelEmbedder(tmp_path, -1, 1).fingerprint != known
    (tmp_path / "variables" / "more").write_text("weights")
    assert SavedModelEmbedder(tmp_path).fingerprint != known
