"""ekd_tf.export.tflite: conversion, op list and runner."""

import os
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.export.tflite import ConversionError
from ekd_tf.export.tflite import TFLiteModel
from ekd_tf.export.tflite import _interpreter
from ekd_tf.export.tflite import convert_tflite
from ekd_tf.export.tflite import tflite_ops
from ekd_tf.export.tflite import write_tflite
from ekd_tf.models.mobilefacenet import MobileFaceNet

# What is left of the student of conftest.py when all that can be folded is: the two
# convolutions and the dense layer have taken in their BatchNorms, the pixel scaling
# stays before the padding, dropout and Flatten are gone.
FOLDED = {
    "CAST": 1,
    "MUL": 1,
    "ADD": 1,
    "PAD": 1,
    "CONV_2D": 1,
    "PRELU": 1,
    "DEPTHWISE_CONV_2D": 1,
    "FULLY_CONNECTED": 1,
    "L2_NORMALIZATION": 1,
}


@keras.saving.register_keras_serializable(package="tests_export")
class Determinant(keras.layers.Layer):
    """An op that TFLite has no builtin for."""

    def call(self, inputs):
        return tf.linalg.det(tf.transpose(inputs, (0, 3, 1, 2)))


def unconvertible():
    pixels = keras.layers.Input((8, 8, 3), dtype="uint8")
    return keras.Model(pixels, Determinant()(keras.layers.Rescaling(1.0)(pixels)))


def cosines(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.sum(a * b, axis=1) / lengths


def test_float32_equals_the_keras_model(student, tflite, images, unit_embeddings):
    received = TFLiteModel(tflite["float32"])(images)
    assert received.dtype == np.float32
    np.testing.assert_allclose(
        received, unit_embeddings(student, images), rtol=1e-4, atol=1e-6
    )


def test_float16_equals_the_keras_model_up_to_rounding(
    student, tflite, images, unit_embeddings
):
    received = TFLiteModel(tflite["float16"])(images)
    expected = unit_embeddings(student, images)
    assert cosines(received, expected).min() >= 0.9999
    # The weights did lose bits.
    assert np.abs(received - expected).max() > 1e-5


def test_maps_one_uint8_image_to_one_unit_embedding(tflite, images):
    content = tflite["float32"]
    interpreter = TFLiteModel(content)._interpreter
    (given,) = interpreter.get_input_details()
    (returned,) = interpreter.get_output_details()
    assert (
        given["shape"].tolist() == given["shape_signature"].tolist() == [1, 16, 16, 3]
    )
    assert given["dtype"] == np.uint8
    assert returned["shape_signature"].tolist() == [1, 24]
    assert returned["dtype"] == np.float32
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": ["images"], "outputs": ["embedding"]}
    }
    lengths = np.linalg.norm(TFLiteModel(content)(images), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-6)


def test_everything_that_can_be_folded_is(tflite):
    assert tflite_ops(tflite["float32"]) == FOLDED


def test_float16_adds_only_the_widening_of_weights(tflite):
    ops = tflite_ops(tflite["float16"])
    assert ops.pop("DEQUANTIZE") >= 4
    assert ops == FOLDED


def test_a_backbone_converts_without_leftovers(rng):
    model = MobileFaceNet(width=0.25, input_size=32, embedding_dim=64)
    content = convert_tflite(model)
    ops = tflite_ops(content)
    # One normalisation of pixels, and of all the BatchNorms none is left; every ADD
    # joins a residual branch: 4 + 6 + 2 blocks.
    assert ops["ADD"] == 12 and ops["MUL"] == ops["SUB"] == 1
    assert set(ops) <= {*FOLDED, "SUB"}
    images = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    assert cosines(TFLiteModel(content)(images), model(images)).min() >= 0.9999


def test_a_half_precision_student_converts_to_float32(
    build_student, images, mixed_policy, unit_embeddings
):
    expected = unit_embeddings(build_student(seed=11), images)
    mixed_policy("mixed_float16")
    content = convert_tflite(build_student(seed=11))
    np.testing.assert_allclose(
        TFLiteModel(content)(images), expected, rtol=1e-4, atol=1e-6
    )


def test_a_model_converts_as_its_saved_model_does(student, tflite, images):
    content = convert_tflite(student)
    assert tflite_ops(content) == FOLDED
    np.testing.assert_array_equal(
        TFLiteModel(content)(images), TFLiteModel(tflite["float32"])(images)
    )


def test_float16_takes_half_the_space(build_student):
    # Wide enough that the weights outweigh the description of the graph.
    model = build_student(width=128, dim=512)
    ratio = len(convert_tflite(model, "float16")) / len(convert_tflite(model))
    assert 0.49 < ratio < 0.56


def test_an_op_without_builtin_is_named():
    with pytest.raises(
        ConversionError, match="ops that TFLite has builtins.*: MatrixDeterminant"
    ):
        convert_tflite(unconvertible())


def test_any_other_failure_of_the_converter_is_told(saved, monkeypatch):
    class Failing:
        target_spec = types.SimpleNamespace()

        def convert(self):
            raise RuntimeError("the reason")

    monkeypatch.setattr(
        tf.lite.TFLiteConverter, "from_saved_model", lambda *a, **k: Failing()
    )
    with pytest.raises(ConversionError, match="TFLite converter failed: the reason"):
        convert_tflite(saved)


def test_flex_and_nested_ops_are_listed_by_name():
    spec = tf.TensorSpec((2, 2), tf.float32)

    def compute(x):
        looped = tf.while_loop(lambda y: y[0, 0] < 9.0, lambda y: (tf.sin(y),), (x,))
        return tf.linalg.det(looped[0])

    function = tf.function(compute, input_signature=[spec]).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS,
        tf.lite.OpsSet.SELECT_TF_OPS,
    ]
    ops = tflite_ops(converter.convert())
    assert ops["FlexMatrixDeterminant"] == 1
    # The body of the loop is a subgraph of its own.
    assert ops["WHILE"] == 1 and ops["SIN"] == 1


def test_wrong_sources_are_refused(student, tmp_path):
    with pytest.raises(ValueError, match="`precision` must be one of 'float32', 'floa"):
        convert_tflite(student, "float8")
    with pytest.raises(ValueError, match="`path` must be a SavedModel's directory"):
        convert_tflite(tmp_path)
    with pytest.raises(ValueError, match="`model` must take uint8 images"):
        inputs = keras.layers.Input((8, 8, 3))
        convert_tflite(keras.Model(inputs, keras.layers.Flatten()(inputs)))


def test_write_replaces_the_file_and_runs_from_its_path(
    student, saved, images, tmp_path, unit_embeddings
):
    path = tmp_path / "new" / "student.tflite"
    for precision, rtol in (("float16", 0.05), ("float32", 1e-4)):
        assert write_tflite(saved, path, precision) == path
        np.testing.assert_allclose(
            TFLiteModel(path)(images),
            unit_embeddings(student, images),
            rtol=rtol,
            atol=rtol / 50,
        )
    assert os.listdir(path.parent) == ["student.tflite"]
    assert tflite_ops(str(path)) == FOLDED


def test_a_failed_conversion_keeps_the_old_file(tmp_path):
    path = tmp_path / "student.tflite"
    path.write_bytes(b"old")
    with pytest.raises(ConversionError):
        write_tflite(unconvertible(), path)
    with pytest.raises(ValueError, match="`precision`"):
        write_tflite(unconvertible(), tmp_path / "new" / "b.tflite", "int4")
    assert os.listdir(tmp_path) == ["student.tflite"]
    assert path.read_bytes() == b"old"


def test_an_unwritable_target_is_named(student, tmp_path):
    (tmp_path / "export").write_text("a file")
    with pytest.raises(OSError, match="Cannot write .*export/student.tflite"):
        write_tflite(student, tmp_path / "export" / "student.tflite")


def test_the_runner_refuses_other_models_and_images(tflite, images, tmp_path):
    run = TFLiteModel(tflite["float32"])
    with pytest.raises(ValueError, match=r"uint8 \(n, 16, 16, 3\). Received: uint8"):
        run(images[:, :8])
    assert run(images[:0]).shape == (0, 24)
    function = tf.function(lambda x: x + 1, input_signature=[tf.TensorSpec((1, 4))])
    other = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], tf.Module()
    ).convert()
    with pytest.raises(ValueError, match=r"one uint8 image.*: float32 \(1, 4\)"):
        TFLiteModel(other)
    with pytest.raises(ValueError, match=r"`num_threads` must be in \[1"):
        TFLiteModel(other, num_threads=0)
    with pytest.raises(FileNotFoundError, match="missing.tflite"):
        TFLiteModel(tmp_path / "missing.tflite")


def test_latency_times_the_repeats_after_a_warm_up(tflite, images, monkeypatch):
    run = TFLiteModel(tflite["float32"], num_threads=2)
    # A clock that only this test moves: the warm-up takes 1 s an image, the timed
    # calls 1, 2, ... 20 ms. The median is 10.5; numpy's 95th percentile of 1..20
    # is at index 0.95 * 19 = 18.05, 19.05.
    clock, seen = [0.0], []

    def embed(image):
        seen.append(image)
        clock[0] += 1.0 if len(seen) <= 5 else (len(seen) - 5) / 1000

    monkeypatch.setattr(run, "_embed", embed)
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    np.testing.assert_allclose(run.latency(images, repeats=20), (10.5, 19.05))
    order = [*range(5), *range(9), *range(9), 0, 1]
    np.testing.assert_array_equal(seen, images[order])


def test_latency_is_of_real_calls(tflite, images):
    run = TFLiteModel(tflite["float32"])
    median, p95 = run.latency(images, repeats=30)
    assert 0 < median <= p95 < 1000
    with pytest.raises(ValueError, match=r"`repeats` must be in \[1"):
        run.latency(images, repeats=0)
    with pytest.raises(ValueError, match=r"`len\(images\)` must be in \[1"):
        run.latency(images[:0])


def test_litert_is_preferred_where_it_is_installed(tflite, images, monkeypatch):
    content = tflite["float32"]
    made = []

    class Interpreter(tf.lite.Interpreter):
        def __init__(self, **kwargs):
            made.append(kwargs)
            super().__init__(**kwargs)

    module = types.ModuleType("ai_edge_litert.interpreter")
    module.Interpreter = Interpreter
    monkeypatch.setitem(sys.modules, "ai_edge_litert", types.ModuleType("a"))
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", module)
    litert = TFLiteModel(content, num_threads=2)
    assert made == [{"model_content": content, "num_threads": 2}]
    # None makes the import fail, as where it is not installed.
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    monkeypatch.delitem(sys.modules, "ai_edge_litert.interpreter")
    fallback = TFLiteModel(content)
    assert len(made) == 1
    np.testing.assert_array_equal(litert(images), fallback(images))


def noise(count=64):
    return np.random.default_rng(5).integers(0, 256, (count, 16, 16, 3), np.uint8)


def test_dynamic_range_stores_weights_in_int8(tflite, student, images):
    # Kernels of 1024 entries and more: the depthwise and the dense one.
    assert tflite_ops(tflite["dynamic"]) == FOLDED
    received = TFLiteModel(tflite["dynamic"])(images)
    assert cosines(received, student(images, training=False)).min() > 0.99
    np.testing.assert_allclose(np.linalg.norm(received, axis=1), 1, rtol=1e-3)


@pytest.mark.parametrize("output", ["float32", "int8"])
def test_int8_takes_pixels_as_they_are_and_returns_the_raw_embedding(
    saved, student, images, output
):
    content = convert_tflite(saved, "int8", noise(), int8_output=output)
    interpreter = _interpreter(content, num_threads=1)
    (image,) = interpreter.get_input_details()
    (embedding,) = interpreter.get_output_details()
    # Scale 1 and zero point 0: the pixel is the number.
    assert (image["dtype"], image["quantization"]) == (np.uint8, (1.0, 0))
    assert embedding["dtype"] == np.dtype(output).type
    (signature,) = interpreter.get_signature_list().values()
    assert signature == {"inputs": ["images"], "outputs": ["raw_embedding"]}
    # Nothing is left in float but the way out.
    ops = tflite_ops(content)
    assert ops.pop("QUANTIZE") == 1
    assert ops.pop("DEQUANTIZE", 0) == (output == "float32")
    assert ops == {
        k: v for k, v in FOLDED.items() if k not in ("CAST", "L2_NORMALIZATION")
    }
    raw = np.asarray(student(images, training=False))
    received = TFLiteModel(content)(images)
    assert cosines(received, raw).mean() > 0.99
    np.testing.assert_allclose(received, raw, atol=0.1 * np.abs(raw).max())


def test_a_dark_set_of_images_does_not_change_the_scale_of_pixels(saved, images):
    content = convert_tflite(saved, "int8", noise() // 4)
    (image,) = _interpreter(content, num_threads=1).get_input_details()
    assert image["quantization"] == (1.0, 0)


def test_int8_from_a_keras_model_equalises_a_copy(student, images):
    before = student.get_weights()
    content = convert_tflite(student, "int8", noise())
    received = TFLiteModel(content)(images)
    assert cosines(received, student(images, training=False)).mean() > 0.99
    for left, right in zip(student.get_weights(), before):
        np.testing.assert_array_equal(left, right)


def test_int8_needs_real_images(saved):
    for none in (None, noise(0)):
        with pytest.raises(ValueError, match="give `representative`, 100 or more"):
            convert_tflite(saved, "int8", none)
    with pytest.raises(ValueError, match=r"uint8 \(n, 16, 16, 3\). Received: uint8"):
        convert_tflite(saved, "int8", noise()[:, :8])
    with pytest.raises(ValueError, match="`int8_output` must be one of"):
        convert_tflite(saved, "int8", noise(), int8_output="uint8")


def test_an_int8_prelu_splits_the_graph(tflite):
    # XNNPACK takes all of the float graph and, of int8, all but PRELU.
    assert TFLiteModel(tflite["float32"]).partitions == 1
    assert TFLiteModel(tflite["int8"]).partitions == 2
