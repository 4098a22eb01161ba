import pathlib
import pickle
import re

import tensorflow as tf
from pictures import flat
from pictures import write_people
from refusals import refused

from ekd_tf import embedders
from ekd_tf.data import FolderFaces
from ekd_tf.data import SyntheticFaces
from ekd_tf.embedders.opening import split_model
from ekd_tf.run import evaluators


def test_range_and_colours_stand_behind_the_path_of_a_file(tmp_path):
    for spec, path, pixels in (
        ("a@b/m.onnx", "a@b/m.onnx", {}),
        ("m.onnx@-1..1", "m.onnx", {"low": -1, "high": 1}),
        ("m.onnx@bgr@0..0.5", "m.onnx", {"low": 0, "high": 0.5, "color": "bgr"}),
        ("m.onnx@-.5..1@bgr", "m.onnx", {"low": -0.5, "high": 1, "color": "bgr"}),
    ):
        assert split_model(spec) == (pathlib.Path(path), pixels)
        assert embedders.file_of_model(spec) == pathlib.Path(path)
    words = "A Keras model takes pixels of 0 .. 255"
    refused(words, embedders.open_embedder, f"{tmp_path}@-1..1")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").touch()
    for spec, file in (
        (tmp_path, tmp_path / "model.keras"),
        (f"{tmp_path / 'saved'}@-1..1", tmp_path / "saved" / "saved_model.pb"),
        ("a/b.tflite", pathlib.Path("a/b.tflite")),
        ("insightface_r50:a/b.pt@bgr", pathlib.Path("a/b.pt")),
        ("insightface_r50:a@b.pt", pathlib.Path("a@b.pt")),
    ):
        assert embedders.file_of_model(str(spec)) == file


def test_a_model_that_takes_fewer_images_than_it_says_is_refused(tmp_path):
    module = tf.Module()

    def embed(pixels):
        rows = tf.reshape(tf.cast(pixels, tf.float32), [1, 2 * 48])
        return {"embedding": tf.ensure_shape(rows[:, :48], [None, 48])}

    spec = tf.TensorSpec((None, 4, 4, 3), tf.uint8)
    module.call = tf.function(embed, [spec])
    tf.saved_model.save(module, str(tmp_path), signatures=module.call)
    words = "cannot be loaded: of 2 images it must make (2, 48), it makes (1, 48)"
    refused(re.escape(words), embedders.open_embedder, str(tmp_path))


def test_a_model_at_a_loss_is_refused_where_another_range_is_its_own(tmp_path):
    def embed(pixels):
        """Knows its images if pixels come as 0 .. 1."""
        rows = tf.reshape(pixels, [-1, 32 * 32 * 3])[:, :96] - 0.4
        lost = tf.reduce_max(pixels) > 1
        return {"embedding": tf.where(lost, tf.sin(1e4 * rows), rows)}

    module = tf.Module()
    spec = tf.TensorSpec((None, 32, 32, 3), tf.float32)
    module.embed = tf.function(embed, [spec])
    tf.saved_model.save(module, str(tmp_path / "m"), signatures=module.embed)
    faces = FolderFaces(write_people(tmp_path / "faces", people=2, each=8, side=32))

    def check(spec):
        embedder = evaluators.make_source_embedder(spec)
        return evaluators.check_range_of_pixels(spec, embedder, faces, 32)

    assert check(f"{tmp_path}/m@0..1").endswith("faces: 1.000")
    refused(r"--teacher=.*/m@0..1 it is 1.000. Give that", check, f"{tmp_path}/m")


def write_pairs(path, issame):
    images = [flat(k) for k in range(2 * len(issame))]
    path.write_bytes(pickle.dumps((images, issame)))
    return path


def test_evaluations_of_a_run_are_named(tmp_path):
    pairs = write_pairs(tmp_path / "lfw.bin", [True, False] * 5)
    heldout = SyntheticFaces(identities=5, images_per_identity=2, size=32)
    drawn = "drawn:synthetic:identities=6,images=2,size=32"
    specs = [f"lfw:pairs:{pairs}", drawn, f"all:allpairs:{pairs}"]
    found = evaluators.make_evaluations(specs, heldout, seed=0)
    assert [e.name for e in found] == ["heldout", "lfw", "drawn", "all"]
    assert found[1].pairs.issame.tolist() == [True, False] * 5
    assert len(found[2].source) == 12
    # Five pairs of one identity, and ten images alone.
    assert found[3].source.num_identities == 15
    assert len({e.fingerprint for e in found}) == 4
    assert evaluators.make_evaluations([], None, seed=0) == []
    words = "must be NAME:KIND:PATH with a name of"
    for spec in ("lfw.bin", "heldout:folder:x", "a b:folder:x", "x:"):
        refused(words, evaluators.make_evaluations, [spec], heldout, seed=0)


def test_pairs_that_cannot_be_evaluated_on_are_refused(tmp_path):
    for issame, kinds in (
        ([True] * 12, "12 positive and 0 negative"),
        ([False] * 12, "0 positive and 12 negative"),
        ([True, False] * 4, "4 positive and 4 negative"),
    ):
        spec = f"x:pairs:{write_pairs(tmp_path / 'x.bin', issame)}"
        words = f"`x` cannot be.*{kinds}.*--eval_sets=x:"
        refused(words, evaluators.make_evaluations, [spec], None, seed=0)
