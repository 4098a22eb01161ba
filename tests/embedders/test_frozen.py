import os

import pytest

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
    with pytest.raises(ValueError, match="its name is not UTF-8. Rename it"):
        check_utf8("v\udce9lo.onnx")


def test_words_of_one_kind_are_given_once():
    for spec in ("A.onnx@cpu@cuda", "A.onnx@bgr@cpu@bgr", "A.onnx@0..1@-1..1"):
        with pytest.raises(ValueError, match=f"one of a kind behind @.*'{spec}'"):
            open_embedder(spec)


def test_an_unknown_word_behind_a_file_is_named(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"")
    words = "`@gpu` behind .*a.onnx must be @LOW..HIGH, .*or, of an .onnx file, @"
    with pytest.raises(ValueError, match=words):
        open_embedder(f"{tmp_path}/a.onnx@gpu")


@pytest.mark.parametrize("name", ["a.onnx", "a.tflite", "a.keras", "a.pt"])
def test_a_pipe_is_no_model(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} is no regular file"):
        open_embedder(str(tmp_path / name))


def test_hash_changes_with_bytes_names_and_settings(tmp_path):
    def write(folder, name, content):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(content)
        return tmp_path / folder

    one = write("a", "x", b"1")
    assert content_hash(one) == content_hash(write("b", "x", b"1"))
    others = [
        content_hash(write("c", "x", b"2")),
        content_hash(write("d", "y", b"1")),
        content_hash(one, 0.0),
        content_hash(one / "x"),
    ]
    assert len({content_hash(one), *others}) == 5


def test_takes_the_output_named_embedding_or_the_only_one():
    assert check_outputs("m", {"x": (None, 8)}) == "x"
    assert check_outputs("m", {"x": (1, 2), "embedding": (None, 8)}) == "embedding"
    # A norm beside the embedding is passed over.
    assert check_outputs("m", {"norm": (None, 1), "x": (None, 512)}) == "x"
    for outputs in (
        {},
        {"x": (1, 8), "y": (1, 8)},
        {"x": (1, 8, 8)},
        {"x": (1, None)},
    ):
        with pytest.raises(ValueError, match="one output"):
            check_outputs("m", outputs)
