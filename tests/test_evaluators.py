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
    return write_pairs(tmp_path / "lfw.bin", [True, False] * 5)


def write_pairs(path, issame):
    images = [
        tf.io.encode_png(np.full((4, 4, 3), k, np.uint8)).numpy()
        for k in range(2 * len(issame))
    ]
    path.write_bytes(pickle.dumps((images, issame)))
    return path


def test_pair_sets_are_named_by_their_files_or_as_told(pair_file):
    found = evaluators.make_pair_sets([str(pair_file), f"other:{pair_file}"])
    assert [pairs.name for pairs in found] == ["lfw", "other"]
    np.testing.assert_array_equal(found[1].issame, [True, False] * 5)


def test_rejects_two_sets_of_one_name(pair_file):
    with pytest.raises(ValueError, match="'lfw' twice"):
        evaluators.make_pair_sets([str(pair_file), f"lfw:{pair_file}"])


def test_evaluations_of_a_run_are_named(pair_file):
    heldout = SyntheticFaces(identities=5, images_per_identity=2, size=32)
    found = evaluators.make_evaluations(
        [
            f"lfw:pairs:{pair_file}",
            "drawn:synthetic:identities=6,images=2,size=32",
            f"all:allpairs:{pair_file}",
        ],
        heldout,
        seed=0,
    )
    assert [e.name for e in found] == ["heldout", "lfw", "drawn", "all"]
    assert found[1].pairs.issame.tolist() == [True, False] * 5
    assert len(found[2].source) == 12
    # Five pairs of one identity, and ten images alone.
    assert found[3].source.num_identities == 15
    assert len({e.fingerprint for e in found}) == 4
    assert evaluators.make_evaluations([], None, seed=0) == []


@pytest.mark.parametrize(
    ("issame", "kinds"),
    [
        ([True] * 12, "12 positive and 0 negative"),
        ([False] * 12, "0 positive and 12 negative"),
        ([True, False] * 4, "4 positive and 4 negative"),
    ],
)
def test_pairs_that_cannot_be_evaluated_on_are_refused(tmp_path, issame, kinds):
    path = write_pairs(tmp_path / "x.bin", issame)
    with pytest.raises(ValueError, match=f"`x` cannot be.*{kinds}.*--evaluate=x:"):
        evaluators.make_evaluations([f"x:pairs:{path}"], None, seed=0)


def test_images_that_cannot_be_evaluated_on_are_refused():
    spec = "faces:synthetic:identities=4,images=2,size=32"
    with pytest.raises(ValueError, match="`faces`.* 8 can be drawn.*--on=faces:"):
        evaluators.make_evaluations([spec], None, seed=0, flag="on")


@pytest.mark.parametrize("spec", ["lfw.bin", "heldout:folder:x", "a b:folder:x", "x:"])
def test_rejects_evaluations_without_a_name_of_their_own(spec):
    heldout = SyntheticFaces(identities=2, images_per_identity=2, size=32)
    with pytest.raises(ValueError, match="must be NAME:SPEC with a name of its own"):
        evaluators.make_evaluations([spec], heldout, seed=0)
