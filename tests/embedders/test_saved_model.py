import pathlib

import tensorflow as tf
from matrix_models import draw
from matrix_models import write_saved_model
from refusals import refused

from ekd_tf.embedders import SavedModelEmbedder
from ekd_tf.embedders import file_of_model
from ekd_tf.embedders import in_other_ranges
from ekd_tf.embedders import open_embedder


# What it embeds: test_formats.py.
def test_gives_no_gradient_and_is_opened_by_its_graph_too(rng, tmp_path):
    write_saved_model(tmp_path)
    model, pixels = SavedModelEmbedder(tmp_path), tf.constant(draw(rng), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        loss = tf.reduce_sum(model(pixels))
    assert tape.gradient(loss, pixels) is None
    graph = f"{tmp_path}/saved_model.pb"
    model = open_embedder(graph)
    assert isinstance(model, SavedModelEmbedder) and model.name == str(tmp_path)
    assert len(in_other_ranges(graph)) == 2
    assert in_other_ranges(graph) == in_other_ranges(str(tmp_path))
    assert file_of_model(graph) == pathlib.Path(graph)


def test_a_damaged_one_is_named_in_one_line(tmp_path):
    write_saved_model(tmp_path)
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
    refused("an endpoint 'serving_default'", SavedModelEmbedder, tmp_path / "none")
    refused("holds no saved_model.pb", SavedModelEmbedder, tmp_path)
    # A signature of any rank.
    module = tf.Module()
    run = tf.function(tf.identity, [tf.TensorSpec(None, tf.float32, "images")])
    signatures = {"serving_default": run.get_concrete_function()}
    tf.saved_model.save(module, str(tmp_path / "any"), signatures)
    refused(r"square RGB images .*input \(\)", SavedModelEmbedder, tmp_path / "any")


def test_is_known_by_graph_and_weights_and_not_by_what_lies_beside_them(tmp_path):
    write_saved_model(tmp_path)
    known = SavedModelEmbedder(tmp_path).fingerprint
    (tmp_path / "card.json").write_text("{}")
    assert SavedModelEmbedder(tmp_path).fingerprint == known
    assert SavedModelEmbedder(tmp_path, -1, 1).fingerprint != known
    (tmp_path / "variables" / "more").write_text("weights")
    assert SavedModelEmbedder(tmp_path).fingerprint != known
