import os

import pytest
from refusals import refused

from ekd_tf.embedders import open_embedder
from ekd_tf.embedders.frozen import check_outputs
from ekd_tf.embedders.frozen import check_utf8
from ekd_tf.embedders.frozen import content_hash
from ekd_tf.embedders.frozen import loading_error


def test_an_error_of_pages_becomes_one_line():
    error = loading_error("m.keras", ValueError("line\n\n  another " + "x" * 900))
    assert str(error).startswith("m.keras cannot be loaded: line another xxx")
    assert len(str(error)) < 350
    assert str(loading_error("m", EOFError())) == "m cannot be loaded: EOFError"
    refused("its name is not UTF-8. Rename it", check_utf8, "v\udce9lo.onnx")


def test_words_behind_a_file_are_given_once_and_known(tmp_path):
    for spec in ("A.onnx@cpu@cuda", "A.onnx@bgr@cpu@bgr", "A.onnx@0..1@-1..1"):
        refused(f"one of a kind behind @.*'{spec}'", open_embedder, spec)
    (tmp_path / "a.onnx").write_bytes(b"")
    refused("`@gpu` behind .*a.onnx must be", open_embedder, f"{tmp_path}/a.onnx@gpu")


@pytest.mark.parametrize("name", ["a.onnx", "a.tflite", "a.keras", "a.pt"])
def test_a_pipe_is_no_model(tmp_path, name):
    os.mkfifo(tmp_path / name)
    refused(f"{name} is no regular file", open_embedder, str(tmp_path / name))


def test_hash_changes_with_bytes_names_and_settings(tmp_path):
    hashes = []
    for folder, name in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / name
        path.write_bytes(b"1")
        hashes.append(content_hash(path.parent))
    assert hashes[0] == hashes[1]
    hashes += [content_hash(path.parent, 0.0), content_hash(path)]
    path.write_bytes(b"2")
    assert len({*hashes, content_hash(path.parent)}) == 5


def test_takes_the_output_named_embedding_or_the_only_one():
    # A norm beside the embedding is passed over.
    for outputs, name in (
        ({"x": (None, 8)}, "x"),
        ({"x": (1, 2), "embedding": (None, 8)}, "embedding"),
        ({"norm": (None, 1), "x": (None, 512)}, "x"),
    ):
        assert check_outputs("m", outputs) == name
    two = {"x": (1, 8), "y": (1, 8)}
    for outputs in ({}, two, {"x": (1, 8, 8)}, {"x": (1, None)}):
        refused("one output", check_outputs, "m", outputs)
