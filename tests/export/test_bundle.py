import hashlib
import json
import os
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from refusals import refused
from toys import make_student
from toys import unit_embeddings

from ekd_tf.embedders import SavedModelEmbedder
from ekd_tf.embedders import open_embedder
from ekd_tf.export import bundle
from ekd_tf.export.parity import ParityError


def test_a_version_is_one_directory_and_the_report_holds_what_was_measured(
    student, images, tmp_path
):
    told, settings = [], {"name": "small", "version": 4}
    settings["progress"] = lambda *what: told.append(what) or told.append
    report = bundle.export_student(student, tmp_path, images, **settings)
    # The model, its copy, and the three artefacts.
    assert told == [("export", 45, "images"), *[9] * 5]
    folder = tmp_path / "small" / "4"
    assert os.listdir(folder.parent) == ["4"]
    names = {path.name for path in folder.iterdir() if path.is_file()}
    tflite = {"small-4-float16.tflite", "small-4-float32.tflite"}
    expected = {"README.md", "card.json", "saved_model.pb", *tflite}
    assert names - {"fingerprint.pb"} == expected
    assert (report.name, report.version, report.path) == ("small", 4, str(folder))
    kinds = [artefact.kind for artefact in report.artefacts]
    assert kinds == ["saved_model", "tflite_float32", "tflite_float16"]
    saved, float32, float16 = report.artefacts
    expected = unit_embeddings(student, images)
    for artefact in report.artefacts:
        received = open_embedder(artefact.path)(images)
        off = np.abs(received - expected).max()
        assert artefact.parity.max_abs_diff == pytest.approx(off, rel=0.2, abs=1e-6)
        assert artefact.parity.images == 9
        assert 0.9999 <= artefact.parity.min_cosine <= artefact.parity.mean_cosine
    assert float16.parity.max_abs_diff > 10 * float32.parity.max_abs_diff
    for artefact in (float32, float16):
        assert artefact.size_bytes == os.path.getsize(artefact.path)
        assert 0 < artefact.median_ms <= artefact.p95_ms
    assert saved.path == str(folder)
    hashes = json.loads((folder / "card.json").read_text())["files"]
    for name, digest in hashes.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    of_saved_model = [name for name in hashes if not name.endswith(".tflite")]
    sizes = [os.path.getsize(folder / name) for name in of_saved_model]
    assert saved.size_bytes == sum(sizes)
    assert saved.median_ms is None
    assert report.rebuild.min_cosine == pytest.approx(1, abs=1e-9)


def test_half_precision_students_export_as_their_float32_twin(
    images, mixed_policy, tmp_path
):
    expected = unit_embeddings(make_student(seed=2), images)
    mixed_policy("mixed_bfloat16")
    student = make_student(seed=2)
    report = bundle.export_student(student, tmp_path, images, name="small", formats=())
    # The copy is compared with the model as trained, which did round.
    assert 0.99 <= report.rebuild.min_cosine < 1 - 1e-8
    received = SavedModelEmbedder(report.path)(images)
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("convert_tflite", "tflite_float16"),
        ("write_saved_model", "saved_model"),
        ("float32_copy", "The float32 copy of the model"),
    ],
)
def test_an_artefact_below_the_gate_leaves_nothing_unless_it_is_lowered(
    student, images, tmp_path, monkeypatch, fault, named
):
    # Another student is what a broken conversion might give.
    wrong, working = make_student(seed=99), getattr(bundle, fault)

    def broken(source, *more):
        return wrong if fault == "float32_copy" else working(wrong, *more)

    monkeypatch.setattr(bundle, fault, broken)
    formats = ["float16"] if fault == "convert_tflite" else []
    arguments = {"name": "small", "formats": formats}
    with pytest.raises(ParityError, match=f"^{named} must reach a cosine of 0.999"):
        bundle.export_student(student, tmp_path, images, **arguments)
    assert os.listdir(tmp_path / "small") == []
    if fault == "write_saved_model":
        arguments["minimum_cosine"] = -1.0
        report = bundle.export_student(student, tmp_path, images, **arguments)
        assert report.artefacts[0].parity.min_cosine < 0.9


def test_what_cannot_be_exported_is_refused_before_any_work(
    student, images, tmp_path, monkeypatch
):
    monkeypatch.setattr(bundle, "float32_copy", lambda model: pytest.fail("too late"))
    inputs = keras.layers.Input((16, 16, 3))
    for model, pixels, name, words in (
        (student, images / 255, "small", r"`images` must be uint8 \(n, 16, 16, 3\)"),
        (student, images[:0], "small", r"`len\(images\)` must be in \[1"),
        (student, images, "../small", "`name` must be a directory's name of letter"),
        (keras.Model(inputs, inputs), images, "small", "`model` must be a functional"),
    ):
        refused(words, bundle.export_student, model, tmp_path, pixels, name=name)
    assert os.listdir(tmp_path) == []
    (tmp_path / "small" / "3").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="version=3; .*small has 3. Leave"):
        bundle.export_student(student, tmp_path, images, name="small", version=3)
    assert os.listdir(tmp_path / "small") == ["3"]


def test_a_full_disk_is_said_and_leaves_earlier_versions_alone(
    student, images, tmp_path, monkeypatch
):
    served = tmp_path / "small" / "1" / "saved_model.pb"
    served.parent.mkdir(parents=True)
    served.write_text("served")

    # What TensorFlow raises on a full file system.
    full = tf.errors.ResourceExhaustedError(None, None, "No space left on device")
    monkeypatch.setattr(tf.saved_model, "save", mock.Mock(side_effect=full))
    with pytest.raises(OSError, match="Cannot write .*/2: No space left on device"):
        bundle.export_student(student, tmp_path, images, name="small")
    assert os.listdir(tmp_path / "small") == ["1"]
    assert os.listdir(served.parent) == ["saved_model.pb"]


def test_a_directory_has_its_name_only_when_complete(tmp_path):
    final = tmp_path / "name" / "3"
    os.umask(umask := os.umask(0))
    with bundle.staged(final) as target:
        (target / "variables").mkdir(parents=True)
        (target / "saved_model.pb").touch()
        assert not final.exists()
        # A server that watches the parent must see no integer.
        (aside,) = os.listdir(final.parent)
        assert aside.startswith(".")
    assert sorted(os.listdir(final)) == ["saved_model.pb", "variables"]
    # By others than who made it.
    assert final.stat().st_mode & 0o777 == 0o777 & ~umask
    # A version that appears meanwhile is not overwritten.
    final = tmp_path / "name" / "1"
    with pytest.raises(OSError, match=f"not empty: .*{final}"):
        with bundle.staged(final) as target:
            target.mkdir()
            (target / "ours").touch()
            final.mkdir()
            (final / "theirs").touch()
    assert sorted(os.listdir(final.parent)) == ["1", "3"]
    assert os.listdir(final) == ["theirs"]


def test_the_version_is_a_new_one_or_one_above_the_highest(tmp_path):
    assert (
        bundle.free_version(tmp_path) == bundle.free_version(tmp_path / "missing") == 1
    )
    # "²" is a digit to str.isdigit and no integer to int().
    for child in ("2", "10", "9", ".13-x.partial", "v14", "15.tflite", "-16", "²"):
        (tmp_path / child).mkdir()
    assert bundle.free_version(tmp_path) == 11
    assert bundle.free_version(tmp_path, version=3) == 3
    refused(
        "=9; .* 2, 9, 10",
        bundle.free_version,
        tmp_path,
        version=9,
        error=FileExistsError,
    )
    refused(
        r"`version` must be in \[1, .*version=0",
        bundle.free_version,
        tmp_path,
        version=0,
    )
