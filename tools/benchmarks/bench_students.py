"""Tabulates students: parameters, multiply-adds, size and latency as TFLite.

Weights are random, which changes neither size nor time; int8 takes its ranges from
synthetic faces. Latencies are of one image on one thread, models and formats in turns.

    python tools/benchmarks/bench_students.py
"""

import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import measuring
import numpy as np
from absl import app
from absl import flags

from ekd_tf.data import SyntheticFaces
from ekd_tf.embedders import TFLiteEmbedder
from ekd_tf.evaluation import format_table
from ekd_tf.export.convert import convert_tflite
from ekd_tf.export.measure import latency
from ekd_tf.models import count_parameters
from ekd_tf.run.student import make_student

STUDENTS = flags.DEFINE_multi_string(
    "student",
    [
        "mobilefacenet,width=1.0",
        "mobilefacenet,width=0.5",
        "mbf,width=1.0",
        "mbf_large,width=1.0",
        "ghostfacenet_v1,width=1.3",
        "ghostfacenet_v1:stem_stride=2,width=1.3",
        "ghostfacenet_v2,width=1.3",
        "ghostfacenet_v2:stem_stride=2,width=1.3",
        "keras:MobileNetV3Small",
        "keras:MobileNetV3Small:stem_stride=1",
        "iresnet18,width=1.0",
    ],
    "As --model, and --width behind a comma; may be repeated.",
)
SIZE = flags.DEFINE_integer(
    "input_size", 112, "Of the images: a multiple of 16 pixels.", 32
)
DIM = flags.DEFINE_integer("embedding_dim", 512, "Size of the embedding.", 1)
TURNS = flags.DEFINE_integer("turns", 5, "Turns of 30 images each.", 1)


def multiply_adds(model):
    """Counts those of the convolutions and products of a model, per image."""
    total = 0
    for layer in model._flatten_layers():
        kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
        if isinstance(layer, kinds):
            kernel = layer.weights[0]
            places = np.prod(layer.output.shape[1:-1], dtype=int)
            total += int(np.prod(kernel.shape)) * int(places)
    return total


def main(_):
    size, folder = SIZE.value, pathlib.Path(tempfile.mkdtemp())
    faces = SyntheticFaces(identities=32, images_per_identity=2, size=size)
    images = np.asarray(faces.read(np.arange(len(faces))))
    rows, runners = [], {}
    for number, text in enumerate(STUDENTS.value):
        spec, _, width = text.partition(",width=")
        student = make_student(
            spec,
            embedding_dim=DIM.value,
            width=float(width or 1),
            input_size=size,
            activation="relu",
            dropout=0.0,
        )
        for _ in range(40):
            # Without averages of its own random features grow beyond what int8 holds.
            student(images[:16], training=True)
        sizes = []
        for precision in ("float32", "int8"):
            path = folder / f"{number}-{precision}.tflite"
            path.write_bytes(convert_tflite(student, precision, images))
            sizes.append(path.stat().st_size / 1e6)
            runners[number, precision] = TFLiteEmbedder(path, num_threads=1)
        rows.append([text, count_parameters(student), multiply_adds(student), *sizes])
        print(text, flush=True)
    cases = {
        key: lambda runner=runner: latency(runner, images, repeats=30)[0]
        for key, runner in runners.items()
    }
    times = measuring.take_turns(cases, TURNS.value, warm_up=0)
    table = []
    for number, (text, parameters, products, *sizes) in enumerate(rows):
        float32, int8 = times[number, "float32"], times[number, "int8"]
        table.append(
            [
                text.replace(",width=", ", width "),
                f"{parameters / 1e6:.2f} M",
                f"{products / 1e6:.0f} M",
                *(f"{megabytes:.2f} MB" for megabytes in sizes),
                measuring.spread(float32, 2),
                measuring.spread(int8, 2),
                f"{np.median(float32 / int8):.2f}",
            ]
        )
    heads = ["student", "parameters", "multiply-adds", "float32", "int8"]
    heads += ["ms float32", "ms int8", "float32 / int8"]
    print(format_table(table, heads))


if __name__ == "__main__":
    app.run(main)
