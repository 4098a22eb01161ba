import keras
import numpy as np
import pytest
import tensorflow as tf
from pictures import with_orientation
from PIL import Image
from refusals import refused
from toys import unit_embeddings

from ekd_tf.data import FolderFaces
from ekd_tf.data import evaluation_batches
from ekd_tf.embedders import SavedModelEmbedder
from ekd_tf.export.saved_model import check_student


@pytest.fixture(scope="module")
def loaded(saved):
    return tf.saved_model.load(str(saved))


def test_the_endpoint_has_stable_names_and_types_and_needs_no_keras(
    student, saved, loaded, images
):
    assert sorted(loaded.signatures) == ["embed_float", "embed_jpeg", "serving_default"]
    signature = loaded.signatures["serving_default"]
    (args, kwargs) = signature.structured_input_signature
    assert args == () and list(kwargs) == ["images"]
    assert kwargs["images"].dtype == tf.uint8
    assert kwargs["images"].shape.as_list() == [None, 16, 16, 3]
    assert list(signature.structured_outputs) == ["embedding"]
    assert signature.structured_outputs["embedding"].dtype == tf.float32
    assert signature.structured_outputs["embedding"].shape.as_list() == [None, 24]
    # No object of it is of a class of Keras or of the package.
    graph = (saved / "saved_model.pb").read_bytes()
    assert b"_tf_keras" not in graph and b"ekd_tf>" not in graph
    received = signature(images=tf.constant(images))["embedding"]
    expected = unit_embeddings(student, images)
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-6)


def test_float_pixels_keep_their_fractions(student, loaded, images):
    embed = loaded.signatures["embed_float"]
    outputs = embed(images=tf.constant(images, tf.float32))
    raw, expected = student(images, training=False), unit_embeddings(student, images)
    np.testing.assert_allclose(outputs["raw_embedding"], raw, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outputs["embedding"], expected, rtol=1e-4, atol=1e-6)
    # All that comes before the first activation is linear in the pixels, and after it
    # the network is not: so pixels half way between two images must not give what
    # either gives, nor what Keras gives, which cuts the half off.
    halves = images + np.float32(0.5) * (images < 255)
    off = embed(images=tf.constant(halves))["raw_embedding"] - raw
    assert np.abs(off).max() > 1e-2


def test_encoded_images_are_decoded_as_in_training(saved, loaded, tmp_path, rng):
    for name, size in (("a.png", 16), ("b.jpg", 16), ("c.jpg", 40), ("d.bmp", 23)):
        pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / name)
    Image.fromarray(pixels[:, :, 0]).save(tmp_path / "a.png" / "gray.png")
    turned = with_orientation(pixels[:9], 6, "JPEG")
    (tmp_path / "b.jpg" / "turned.jpg").write_bytes(turned)
    source = FolderFaces(tmp_path)
    everything = np.arange(len(source))
    (batch,) = evaluation_batches(source, everything, 16, 8)
    expected = SavedModelEmbedder(saved)(batch)
    embed = loaded.signatures["embed_jpeg"]
    received = embed(image_bytes=tf.constant(source.read(everything)))["embedding"]
    np.testing.assert_allclose(received, expected, rtol=1e-5, atol=1e-6)
    assert embed(image_bytes=tf.constant([], tf.string))["embedding"].shape == (0, 24)


def network(shape, dtype, outputs=1, flat=True):
    inputs = keras.layers.Input(shape, dtype=dtype)
    x = keras.layers.Rescaling(2.0)(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x) if flat else x
    return keras.Model(inputs, [x] * outputs if outputs > 1 else x)


def test_models_that_are_no_students_are_refused():
    class Subclassed(keras.Model):
        pass

    for model, received in (
        (network((16, 16, 3), "float32"), r"inputs=\[\('float32', None, 16, 16, 3\)"),
        (network((None, None, 3), "uint8"), r"\('uint8', None, None, None, 3\)"),
        (network((16, 16, 1), "uint8"), r"\('uint8', None, 16, 16, 1\)"),
        (network((16, 12, 3), "uint8"), r"\('uint8', None, 16, 12, 3\)"),
        (network((16, 16, 3), "uint8", flat=False), r"outputs=.*None, 16, 16, 3\)"),
        (network((16, 16, 3), "uint8", outputs=2), r"outputs=.*, 3\), \(None, 3\)\]"),
        (Subclassed(), r"inputs=\[\]"),
    ):
        refused(f"functional Keras model.*{received}", check_student, model)
