import pickle

import numpy as np
import pytest
import tensorflow as tf
from toys import backbone

from ekd_tf import evaluators
from ekd_tf.data import SyntheticFaces
from ekd_tf.teachers import KerasEmbedder
from ekd_tf.teachers import SavedModelEmbedder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.keras"
    made = backbone(dim=4)
    made.save(path)
    return path, made


def test_opens_a_keras_file(model):
    assert isinstance(evaluators.open_embedder(str(model[0])), KerasEmbedder)


def test_opens_a_saved_model(model, tmp_path):
    module = tf.Module()
    module.call = tf.function(
        lambda x: {"embedding": tf.reshape(tf.cast(x, tf.float32), [-1, 48])},
        [tf.TensorSpec((None, 4, 4, 3), tf.float32)],
    )
    tf.saved_model.save(module, str(tmp_path), signatures=module.call)
    opened = evaluators.open_embedder(f"{tmp_path}@-1..1")
    assert isinstance(opened, SavedModelEmbedder)
    np.testing.assert_array_equal(opened(np.zeros((1, 4, 4, 3), np.uint8)), -1)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("none.onnx", "none.onnx cannot be loaded by onnxruntime"),
        ("none.tflite@0..1", "none.tflite cannot be loaded as TFLite"),
        ("none.keras", "none.keras does not exist"),
        ("none.keras@-1..1", "A Keras model takes pixels of 0 .. 255"),
        ("insightface_r50:none.pt", "none.pt does not exist"),
    ],
)
def test_says_what_is_wrong_with_a_model(spec, message):
    if "onnx" in spec:
        pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    with pytest.raises(ValueError, match=message):
        evaluators.open_embedder(spec)


def test_embeds_sources_once_where_there_is_a_cache(model, tmp_path):
    source = SyntheticFaces(identities=2, images_per_identity=2, size=32)
    embed = evaluators.make_source_embedder(
        str(model[0]), cache=evaluators.make_cache(tmp_path)
    )
    rows = embed(source)
    assert rows.shape == (4, 4)
    (path,) = tmp_path.glob("*.f32")
    written = path.stat().st_mtime_ns
    np.testing.assert_array_equal(embed(source), rows)
    assert path.stat().st_mtime_ns == written


def test_none_is_none():
    assert evaluators.make_source_embedder("none") is None
    assert evaluators.make_cache(None) is None


@pytest.fixture
def pair_file(tmp_path):
    image = tf.io.encode_png(np.zeros((4, 4, 3), np.uint8)).numpy()
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps(([image] * 4, [True, False])))
    return path


def test_evaluations_of_a_run_are_named(pair_file):
    heldout = SyntheticFaces(identities=2, images_per_identity=2, size=32)
    found = evaluators.make_evaluations(
        [
            f"lfw:pairs:{pair_file}",
            "drawn:synthetic:identities=3,images=2,size=32",
            f"all:allpairs:{pair_file}",
        ],
        heldout,
        seed=0,
    )
    assert [e.name for e in found] == ["heldout", "lfw", "drawn", "all"]
    assert found[1].pairs.issame.tolist() == [True, False]
    assert len(found[2].source) == 6
    # Its four images are copies of one.
    assert found[3].source.labels.tolist() == [0]
    assert len({e.fingerprint for e in found}) == 4
    assert evaluators.make_evaluations([], None, seed=0) == []


@pytest.mark.parametrize("spec", ["lfw.bin", "heldout:folder:x", "a b:folder:x", "x:"])
def test_rejects_evaluations_without_a_name_of_their_own(spec):
    heldout = SyntheticFaces(identities=2, images_per_identity=2, size=32)
    with pytest.raises(ValueError, match="must be NAME:KIND:PATH with a name of its"):
        evaluators.make_evaluations([spec], heldout, seed=0)
