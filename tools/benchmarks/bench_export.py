"""Latency and size of every artefact of an export, on the same cores.

    python tools/benchmarks/bench_export.py
    python tools/benchmarks/bench_export.py --export=runs/student/export/student/1

Without `--export` a MobileFaceNet of random weights is exported first, once per
activation: speed and size do not depend on the weights. One image, warm, on one and
on two threads.
"""

import pathlib
import sys
import tempfile

import measuring
import numpy as np
from absl import app
from absl import flags

EXPORT = flags.DEFINE_string("export", None, "A version's directory.")
WIDTH = flags.DEFINE_float("width", 1.0, "Of the MobileFaceNet.", 0)
INPUT_SIZE = flags.DEFINE_integer("input_size", 112, "Side in pixels.", 32)
ACTIVATIONS = flags.DEFINE_list("activations", "relu,prelu", "Of the MobileFaceNet.")
REPEATS = flags.DEFINE_integer("repeats", 50, "Timed images a round.", 1)
ROUNDS = flags.DEFINE_integer("rounds", 3, "Rounds; the least median counts.", 1)
ONNX = flags.DEFINE_bool("onnx", True, "Write and time ONNX in onnxruntime as well.")


def export(activation, directory):
    """Exports a MobileFaceNet of random weights; no gate, as they mean nothing."""
    from ekd_tf.export import convert_onnx
    from ekd_tf.export import convert_tflite
    from ekd_tf.models import MobileFaceNet

    model = MobileFaceNet(
        width=WIDTH.value, activation=activation, input_size=INPUT_SIZE.value
    )
    path = pathlib.Path(directory)
    noise = np.random.default_rng(0).integers(
        0, 256, (8, *model.input_shape[1:]), dtype=np.uint8
    )
    for precision in ("float32", "float16", "dynamic", "int8"):
        content = convert_tflite(model, precision, noise)
        (path / f"{activation}-{precision}.tflite").write_bytes(content)
    if ONNX.value:
        (path / f"{activation}.onnx").write_bytes(convert_onnx(model))
    return path


def rows(path):
    """Times every file below a version's directory and returns the table's rows."""
    from ekd_tf.embedders import OnnxEmbedder
    from ekd_tf.embedders import TFLiteEmbedder
    from ekd_tf.export.measure import latency
    from ekd_tf.export.measure import peak_memory

    files = sorted(path.glob("*.tflite")) + sorted(path.glob("*.onnx"))
    if not files:
        raise ValueError(f"{path} holds no .tflite and no .onnx file")
    runners = {}
    for file in files:
        make = OnnxEmbedder if file.suffix == ".onnx" else TFLiteEmbedder
        for threads in (1, 2):
            runners[file, threads] = make(file, num_threads=threads)
    size = runners[files[0], 1].input_size
    images = np.random.default_rng(0).integers(0, 256, (8, size, size, 3), np.uint8)
    cases = {
        key: lambda runner=runner: latency(runner, images, REPEATS.value)
        for key, runner in runners.items()
    }
    times = measuring.take_turns(cases, ROUNDS.value, warm_up=0)
    for file in files:
        tflite = file.suffix == ".tflite"
        peak = peak_memory(file) if tflite else None
        # Of the round with the least median.
        least = [min(times[file, threads].tolist()) for threads in (1, 2)]
        yield [
            file.name,
            f"{file.stat().st_size / 1e6:.2f}",
            *(f"{value:.2f}" for value in [*least[0], *least[1]]),
            None if peak is None else f"{peak / 1e6:.1f}",
            runners[file, 1].partitions if tflite else None,
        ]


def main(argv):
    """Prints the table."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    from ekd_tf.evaluation import format_table

    header = [
        "file",
        "MB",
        "ms, 1 thread",
        "p95",
        "ms, 2 threads",
        "p95",
        "peak MB",
        "XNNPACK partitions",
    ]
    try:
        if EXPORT.value:
            table = list(rows(pathlib.Path(EXPORT.value)))
        else:
            table = []
            for activation in ACTIVATIONS.value:
                with tempfile.TemporaryDirectory() as directory:
                    table += rows(export(activation, directory))
    except (OSError, ValueError) as error:
        raise SystemExit(f"bench_export.py: {error}") from None
    sys.stdout.write(format_table(table, header) + "\n")


if __name__ == "__main__":
    app.run(main)
