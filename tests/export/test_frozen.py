"""ekd_tf.export.frozen: an endpoint for one image, without variables."""

import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.export.frozen import EMBEDDING
from ekd_tf.export.frozen import RAW
from ekd_tf.export.frozen import freeze
from ekd_tf.export.tflite import convert_tflite


@pytest.mark.parametrize("name", [EMBEDDING, RAW])
@pytest.mark.parametrize("of", ["model", "saved_model"])
def test_gives_what_the_student_gives_for_one_image(
    student, saved, images, unit_embeddings, tmp_path, of, name
):
    freeze(student if of == "model" else saved, name).save(tmp_path)
    loaded = tf.saved_model.load(str(tmp_path))
    assert list(loaded.signatures) == ["serving_default"]
    embed = loaded.signatures["serving_default"]
    dtype = tf.uint8 if name == EMBEDDING else tf.float32
    assert embed.structured_input_signature[1] == {
        "images": tf.TensorSpec((1, *images.shape[1:]), dtype, "images")
    }
    expected = np.asarray(student(images[:1], training=False))
    if name == EMBEDDING:
        expected = unit_embeddings(student, images[:1])
    found = embed(images=tf.cast(images[:1], dtype))
    assert list(found) == [name]
    np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5)


def test_holds_no_variables(student, tmp_path):
    frozen = freeze(student)
    frozen.save(tmp_path)
    assert not any("Variable" in node.op for node in frozen.graph.node)
    assert tf.train.list_variables(str(tmp_path / "variables" / "variables")) == [
        ("_CHECKPOINTABLE_OBJECT_GRAPH", [])
    ]


def test_one_converts_to_several_precisions(student, tflite):
    frozen = freeze(student)
    for precision in ("float32", "float16", "dynamic"):
        assert convert_tflite(frozen, precision) == tflite[precision]


def test_the_endpoint_must_be_that_of_the_precision(student, images):
    with pytest.raises(ValueError, match="'int8' is converted from .*'raw_embedding'"):
        convert_tflite(freeze(student), "int8", images)
    with pytest.raises(ValueError, match="one that returns 'raw_embedding'"):
        convert_tflite(freeze(student, RAW))


def test_a_saved_model_without_raw_embeddings_is_refused(student, tmp_path):
    freeze(student).save(tmp_path)
    with pytest.raises(ValueError, match="an endpoint 'embed_float' .* Export it anew"):
        freeze(tmp_path, RAW)
