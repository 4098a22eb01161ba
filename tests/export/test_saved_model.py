"""ekd_tf.export.saved_model: what TF Serving and bare TensorFlow find."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from ekd_tf.data import FolderFaces
from ekd_tf.data import evaluation_batches
from ekd_tf.export.saved_model import SavedModelEmbedder
from ekd_tf.export.saved_model import check_images
from ekd_tf.export.saved_model import check_student
from ekd_tf.export.saved_model import export_saved_model

# What someone has who was given the directory and nothing else of the project.
BARE = """
import sys
import numpy as np
import tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
images = np.load(sys.argv[2])
outputs = loaded.signatures["serving_default"](images=tf.constant(images))
np.save(sys.argv[3], outputs["embedding"].numpy())
if "ekd_tf" in sys.modules:
    raise SystemExit("must not need the package")
"""


def test_the_endpoint_has_stable_names_and_types(saved):
    loaded = tf.saved_model.load(str(saved))
    assert sorted(loaded.signatures) == ["embed_float", "embed_jpeg", "serving_default"]
    signature = loaded.signatures["serving_default"]
    (args, kwargs) = signature.structured_input_signature
    assert args == () and list(kwargs) == ["images"]
    assert kwargs["images"].dtype == tf.uint8
    assert kwargs["images"].shape.as_list() == [None, 16, 16, 3]
    assert list(signature.structured_outputs) == ["embedding"]
    assert signature.structured_outputs["embedding"].dtype == tf.float32
    assert signature.structured_outputs["embedding"].shape.as_list() == [None, 24]


def test_a_process_with_only_tensorflow_gets_the_same_numbers(
    student, saved, images, tmp_path, unit_embeddings
):
    np.save(tmp_path / "images.npy", images)
    subprocess.run(
        [sys.executable, "-c", BARE, saved, "images.npy", "embeddings.npy"],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        check=True,
    )
    received = np.load(tmp_path / "embeddings.npy")
    np.testing.assert_allclose(
        received, unit_embeddings(student, images), rtol=1e-4, atol=1e-6
    )


def test_float_pixels_keep_their_fractions(student, saved, images, unit_embeddings):
    embed = tf.saved_model.load(str(saved)).signatures["embed_float"]
    outputs = embed(images=tf.constant(images, tf.float32))
    raw = np.asarray(student(images, training=False))
    np.testing.assert_allclose(outputs["raw_embedding"], raw, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        outputs["embedding"], unit_embeddings(student, images), rtol=1e-4, atol=1e-6
    )
    # All that comes before the first activation is linear in the pixels, and after it
    # the network is not: so pixels half way between two images must not give what
    # either gives, nor what Keras gives, which cuts the half off.
    halves = images + np.float32(0.5) * (images < 255)
    off = embed(images=tf.constant(halves))["raw_embedding"] - raw
    assert np.abs(off).max() > 1e-2


def test_encoded_images_are_decoded_and_resized_as_in_training(saved, tmp_path, rng):
    (tmp_path / "p").mkdir()
    for name, size in (("a.png", 16), ("b.jpg", 16), ("c.jpg", 40), ("d.bmp", 23)):
        pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "p" / name)
    Image.fromarray(pixels[:, :, 0]).save(tmp_path / "p" / "gray.png")
    (tmp_path / "q").mkdir()
    Image.fromarray(pixels).save(tmp_path / "q" / "e.png")
    source = FolderFaces(tmp_path)
    everything = np.arange(len(source))
    expected = SavedModelEmbedder(saved)(
        np.concatenate(list(evaluation_batches(source, everything, 16, 8)))
    )
    embed = tf.saved_model.load(str(saved)).signatures["embed_jpeg"]
    received = embed(image_bytes=tf.constant(source.read(everything)))["embedding"]
    np.testing.assert_allclose(received, expected, rtol=1e-5, atol=1e-6)
    assert embed(image_bytes=tf.constant([], tf.string))["embedding"].shape == (0, 24)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_serves_float32_numerics_whatever_the_policy(
    build_student, images, mixed_policy, tmp_path, unit_embeddings, policy
):
    expected = unit_embeddings(build_student(seed=5), images)
    mixed_policy(policy)
    path = export_saved_model(build_student(seed=5), tmp_path)
    received = SavedModelEmbedder(path)(images)
    # Half precision would be off by 1e-3 and 1e-2.
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-6)


def test_takes_any_batch_size(student, saved, images, unit_embeddings):
    embed = SavedModelEmbedder(saved)
    expected = unit_embeddings(student, images)
    for batch in (1, 7, 9):
        received = embed(images[:batch])
        assert received.dtype == np.float32
        np.testing.assert_allclose(received, expected[:batch], rtol=1e-4, atol=1e-6)


def test_embeddings_have_length_one(student, saved, images):
    embeddings = SavedModelEmbedder(saved)(images)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-6)
    assert not np.allclose(np.linalg.norm(student(images), axis=1), 1, rtol=0.1)


def test_versions_count_up_in_the_layout_of_tf_serving(student, tmp_path):
    versions = [export_saved_model(student, tmp_path, version=v) for v in (None, 7)]
    versions.append(export_saved_model(student, str(tmp_path)))
    assert versions == [tmp_path / "1", tmp_path / "7", tmp_path / "8"]
    assert sorted(os.listdir(tmp_path)) == ["1", "7", "8"]
    assert {"saved_model.pb", "variables"} <= set(os.listdir(tmp_path / "8"))


def test_an_existing_version_is_refused_and_kept(student, tmp_path):
    (tmp_path / "2").mkdir()
    with pytest.raises(
        FileExistsError, match="`version` must not exist yet.*version=2"
    ):
        export_saved_model(student, tmp_path, version=2)
    assert os.listdir(tmp_path / "2") == []


def test_a_target_that_is_a_file_is_named(student, tmp_path):
    (tmp_path / "export").write_text("a file")
    with pytest.raises(OSError, match="Cannot write .*export/1: File exists"):
        export_saved_model(student, tmp_path / "export")


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_nothing(student, tmp_path, monkeypatch, error):
    def write_half(module, filepath, **kwargs):
        os.makedirs(filepath)
        open(os.path.join(filepath, "saved_model.pb"), "wb").close()
        raise error

    monkeypatch.setattr(tf.saved_model, "save", write_half)
    with pytest.raises(type(error)):
        export_saved_model(student, tmp_path / "new" / "name")
    assert os.listdir(tmp_path) == []


def test_prints_nothing_and_changes_nothing(student, images, tmp_path, capsys):
    before = np.asarray(student(images))
    export_saved_model(student, tmp_path)
    assert capsys.readouterr().out == ""
    np.testing.assert_array_equal(student(images), before)


def network(shape, dtype, outputs=1, flat=True):
    inputs = keras.layers.Input(shape, dtype=dtype)
    x = keras.layers.Rescaling(2.0)(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x) if flat else x
    return keras.Model(inputs, [x] * outputs if outputs > 1 else x)


@pytest.mark.parametrize(
    "shape, dtype, received",
    [
        ((16, 16, 3), "float32", r"float32 \(None, 16, 16, 3\)"),
        ((None, None, 3), "uint8", r"uint8 \(None, None, None, 3\)"),
        ((16, 16, 1), "uint8", r"uint8 \(None, 16, 16, 1\)"),
    ],
)
def test_a_model_with_another_input_is_refused(tmp_path, shape, dtype, received):
    message = f"`model` must take uint8 images.*fixed size. Received: {received}"
    with pytest.raises(ValueError, match=message):
        export_saved_model(network(shape, dtype), tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_model_without_an_embedding_is_refused():
    with pytest.raises(ValueError, match=r"return embeddings.*\(None, 16, 16, 3\)"):
        check_student(network((16, 16, 3), "uint8", flat=False))
    with pytest.raises(ValueError, match="`model` must be a functional Keras.*outputs"):
        check_student(network((16, 16, 3), "uint8", outputs=2))


def test_a_model_without_a_graph_of_layers_is_refused():
    class Subclassed(keras.Model):
        pass

    with pytest.raises(ValueError, match="functional Keras model.*inputs=None"):
        check_student(Subclassed())


def test_a_rectangular_student_is_one(tmp_path, rng):
    path = export_saved_model(network((16, 12, 3), "uint8"), tmp_path)
    images = rng.integers(1, 256, (2, 16, 12, 3), dtype=np.uint8)
    means = images.mean(axis=(1, 2))
    expected = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(SavedModelEmbedder(path)(images), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "images, received",
    [
        (np.zeros((2, 8, 8, 3), np.float32), r"float32 \(2, 8, 8, 3\)"),
        (np.zeros((2, 9, 8, 3), np.uint8), r"uint8 \(2, 9, 8, 3\)"),
        (np.zeros((8, 8, 3), np.uint8), r"uint8 \(8, 8, 3\)"),
    ],
    ids=["float", "size", "rank"],
)
def test_images_of_another_kind_are_refused(images, received):
    message = rf"`images` must be uint8 \(n, 8, 8, 3\). Received: {received}"
    with pytest.raises(ValueError, match=message):
        check_images(images, (8, 8, 3))


def test_the_embedder_refuses_images_of_another_kind(saved, images):
    embed = SavedModelEmbedder(saved)
    with pytest.raises(ValueError, match="`images` must be uint8.*Received: float32"):
        embed(images.astype(np.float32))


def test_a_path_without_a_saved_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`path` must be a SavedModel's directory"):
        SavedModelEmbedder(tmp_path)


def test_a_saved_model_with_other_endpoints_is_refused(tmp_path):
    module = tf.Module()
    spec = tf.TensorSpec((None, 8, 8, 3), tf.uint8, name="images")
    module.f = tf.function(lambda images: {"raw": images}, input_signature=[spec])
    tf.saved_model.save(
        module, tmp_path / "a", signatures={"serving_default": module.f}
    )
    tf.saved_model.save(module, tmp_path / "b", signatures={"other": module.f})
    with pytest.raises(ValueError, match=r"must have an endpoint .*with \['raw'\]"):
        SavedModelEmbedder(tmp_path / "a")
    with pytest.raises(ValueError, match=r"returns `embedding`. It has: \['other'\]"):
        SavedModelEmbedder(tmp_path / "b")


def test_a_full_disk_is_said_and_leaves_nothing(student, tmp_path, monkeypatch):
    def save(module, path, **kwargs):
        # What TensorFlow raises on a full file system.
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", save)
    with pytest.raises(OSError, match="Cannot write .*/1: No space left on device"):
        export_saved_model(student, tmp_path / "new")
    assert os.listdir(tmp_path) == []
