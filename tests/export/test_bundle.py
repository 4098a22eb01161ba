"""ekd_tf.export.bundle: one directory with all artefacts, or none."""

import hashlib
import json
import os
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import ekd_tf.export.bundle as bundle
from ekd_tf.embedders import SavedModelEmbedder
from ekd_tf.embedders import TFLiteEmbedder
from ekd_tf.export.bundle import export_student
from ekd_tf.export.parity import ParityError
from ekd_tf.export.tflite import convert_tflite


@pytest.fixture(scope="module")
def exported(student, tmp_path_factory):
    """An export's directory, images and report."""
    directory = tmp_path_factory.mktemp("exported")
    images = np.random.default_rng(1).integers(
        0, 256, (9, *student.input_shape[1:]), dtype=np.uint8
    )
    return (
        directory,
        images,
        export_student(student, directory / "export", images, name="small", version=4),
    )


def test_a_version_is_one_directory_with_all_its_artefacts(exported):
    tmp_path, _, report = exported
    version = tmp_path / "export" / "small" / "4"
    assert os.listdir(version.parent) == ["4"]
    names = [path.name for path in sorted(version.iterdir()) if path.is_file()]
    assert [name for name in names if name != "fingerprint.pb"] == [
        "README.md",
        "card.json",
        "saved_model.pb",
        "small-4-float16.tflite",
        "small-4-float32.tflite",
    ]
    assert (report.name, report.version, report.path) == ("small", 4, str(version))
    assert [artefact.kind for artefact in report.artefacts] == [
        "saved_model",
        "tflite_float32",
        "tflite_float16",
    ]


def test_the_report_holds_what_was_written_and_measured(
    student, exported, unit_embeddings
):
    _, images, report = exported
    saved, float32, float16 = report.artefacts
    expected = unit_embeddings(student, images)
    for artefact, runner in (
        (saved, SavedModelEmbedder),
        (float32, TFLiteEmbedder),
        (float16, TFLiteEmbedder),
    ):
        received = runner(artefact.path)(images)
        off = np.abs(received - expected).max()
        assert artefact.parity.max_abs_diff == pytest.approx(off, rel=0.2, abs=1e-6)
        assert artefact.parity.images == 9
        assert 0.9999 <= artefact.parity.min_cosine <= artefact.parity.mean_cosine
    assert float16.parity.max_abs_diff > 10 * float32.parity.max_abs_diff
    for artefact in (float32, float16):
        assert artefact.size_bytes == os.path.getsize(artefact.path)
        assert 0 < artefact.median_ms <= artefact.p95_ms
    folder = pathlib.Path(saved.path)
    hashes = json.loads((folder / "card.json").read_text())["files"]
    written = {f: f.relative_to(folder).as_posix() for f in folder.rglob("*.*")}
    of_saved_model = [f for f in written if f.suffix not in (".tflite", ".json", ".md")]
    of_saved_model = [f for f in of_saved_model if f.is_file()]
    assert saved.size_bytes == sum(os.path.getsize(f) for f in of_saved_model)
    for file in of_saved_model:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert hashes[written[file]] == digest
    assert saved.median_ms is None
    assert report.rebuild.min_cosine == pytest.approx(1, abs=1e-9)


def test_half_precision_students_export_as_their_float32_twin(
    build_student, images, mixed_policy, tmp_path, unit_embeddings
):
    expected = unit_embeddings(build_student(seed=2), images)
    mixed_policy("mixed_bfloat16")
    report = export_student(build_student(seed=2), tmp_path, images, name="small")
    # The copy is compared with the model as trained, which did round.
    assert 0.99 <= report.rebuild.min_cosine < 1 - 1e-8
    for artefact in report.artefacts[:2]:
        assert artefact.parity.max_abs_diff < 1e-5
    received = SavedModelEmbedder(report.path)(images)
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-6)


@pytest.fixture
def wrong(build_student):
    """Another student: what a broken conversion might give."""
    return build_student(seed=99)


def break_float16(monkeypatch, wrong):
    def convert(source, precision):
        return convert_tflite(wrong if precision == "float16" else source, precision)

    monkeypatch.setattr(bundle, "convert_tflite", convert)


def break_saved_model(monkeypatch, wrong):
    write = bundle.write_saved_model
    monkeypatch.setattr(bundle, "write_saved_model", lambda s, path: write(wrong, path))


def break_copy(monkeypatch, wrong):
    monkeypatch.setattr(bundle, "as_float32", lambda model: wrong)


@pytest.mark.parametrize(
    "fault, named",
    [
        (break_float16, "tflite_float16"),
        (break_saved_model, "saved_model"),
        (break_copy, "The float32 copy of the model"),
    ],
)
def test_an_artefact_below_the_gate_leaves_nothing(
    student, images, tmp_path, monkeypatch, wrong, fault, named
):
    fault(monkeypatch, wrong)
    with pytest.raises(ParityError, match=f"^{named} must reach a cosine of 0.999"):
        export_student(student, tmp_path / "export", images, name="small")
    assert os.listdir(tmp_path) == []


def test_the_gate_can_be_set(student, images, tmp_path, monkeypatch, wrong):
    break_float16(monkeypatch, wrong)
    report = export_student(
        student, tmp_path, images, name="small", minimum_cosine=-1.0
    )
    assert report.artefacts[2].parity.min_cosine < 0.9


def test_an_interrupted_export_leaves_earlier_versions_alone(
    student, images, tmp_path, monkeypatch, tree
):
    (tmp_path / "small" / "1").mkdir(parents=True)
    (tmp_path / "small" / "1" / "saved_model.pb").write_text("served")

    def convert(source, precision):
        if precision == "float16":
            raise KeyboardInterrupt
        return convert_tflite(source, precision)

    monkeypatch.setattr(bundle, "convert_tflite", convert)
    with pytest.raises(KeyboardInterrupt):
        export_student(student, tmp_path, images, name="small")
    assert tree(tmp_path) == ["small", "small/1", "small/1/saved_model.pb"]


def test_an_existing_version_is_refused_before_any_work(
    student, images, tmp_path, monkeypatch, tree
):
    (tmp_path / "small" / "3").mkdir(parents=True)
    monkeypatch.setattr(bundle, "as_float32", lambda model: pytest.fail("too late"))
    with pytest.raises(FileExistsError, match="version=3; .*small has 3. Leave"):
        export_student(student, tmp_path, images, name="small", version=3)
    assert tree(tmp_path) == ["small", "small/3"]


def test_wrong_arguments_are_refused(student, images, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"`images` must be uint8 \(n, 16, 16, 3\)"):
        export_student(student, tmp_path, images / 255, name="small")
    with pytest.raises(ValueError, match=r"`len\(images\)` must be in \[1"):
        export_student(student, tmp_path, images[:0], name="small")
    inputs = keras.layers.Input((16, 16, 3))
    with pytest.raises(ValueError, match="`model` must take uint8 images"):
        export_student(keras.Model(inputs, inputs), tmp_path, images, name="small")
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_said_and_leaves_nothing(student, images, tmp_path, monkeypatch):
    def save(module, path, **kwargs):
        # What TensorFlow raises on a full file system.
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", save)
    with pytest.raises(OSError, match="Cannot write .*/1: No space left on device"):
        export_student(student, tmp_path / "new", images, name="small")
    assert os.listdir(tmp_path) == []
