"""One model of images of 4x4 pixels, in every format that is read."""

import keras
import numpy as np
import pytest
import tensorflow as tf

MATRIX = np.cos(np.arange(48 * 5)).reshape(48, 5).astype(np.float32) / 255


def draw(rng, count=3):
    return rng.integers(0, 256, (count, 4, 4, 3), np.uint8)


def embed(pixels):
    """Returns what the model gives for pixels in the order of its input."""
    return pixels.reshape(len(pixels), 48) @ MATRIX


def write_keras(folder, dtype="uint8", shape=(None, 4, 4, 3)):
    pixels = keras.Input(shape[1:], batch_size=shape[0], dtype=dtype)
    rows = keras.layers.Flatten()(keras.layers.Rescaling(1.0)(pixels))
    model = keras.Model(pixels, keras.layers.Dense(5, use_bias=False)(rows))
    model.set_weights([MATRIX])
    model.save(folder / "m.keras")
    return folder / "m.keras"


def _module(dtype, shape):
    module = tf.Module()
    module.matrix = tf.Variable(MATRIX)

    def embed(pixels):
        rows = tf.reshape(tf.cast(pixels, tf.float32), [-1, 48])
        return {"embedding": rows @ module.matrix}

    module.embed = tf.function(embed, [tf.TensorSpec(shape, dtype, name="pixels")])
    return module


def write_saved_model(folder, dtype="uint8", shape=(None, 4, 4, 3)):
    module = _module(dtype, shape)
    tf.saved_model.save(module, str(folder), signatures=module.embed)
    return folder


def write_tflite(folder, dtype="uint8", shape=(1, 4, 4, 3), quantised=False):
    module = _module(dtype, shape)
    functions = [module.embed.get_concrete_function()]
    converter = tf.lite.TFLiteConverter.from_concrete_functions(functions, module)
    if quantised:
        rng = np.random.default_rng(0)
        some = rng.uniform(0, 255, (50, *shape)).astype(np.float32)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
        converter.representative_dataset = lambda: ([images] for images in some)
    (folder / "m.tflite").write_bytes(converter.convert())
    return folder / "m.tflite"


def write_onnx(
    folder, dtype="uint8", shape=("N", 3, 4, 4), outputs=1, weights=None, cast="Cast"
):
    """Skips without onnxruntime; `weights` names a file of their own."""
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    helper, to_float = onnx.helper, {"to": 1} if cast == "Cast" else {}
    names = [f"out{k}" for k in range(outputs)]
    node, value = helper.make_node, helper.make_tensor_value_info
    nodes = [node(cast, ["data"], ["x"], **to_float), node("Flatten", ["x"], ["flat"])]
    nodes += [node("MatMul", ["flat", "matrix"], [name]) for name in names]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    pixels = [value("data", kind, shape)]
    rows = [value(name, 1, (shape[0], 5)) for name in names]
    matrix = [onnx.numpy_helper.from_array(MATRIX, "matrix")]
    graph = helper.make_graph(nodes, "g", pixels, rows, matrix)
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    beside = {"location": weights, "size_threshold": 0} if weights else {}
    path = folder / "m.onnx"
    onnx.save_model(model, path, save_as_external_data=bool(weights), **beside)
    return path
