"""Measures a margin head over very many identities: memory and time of a step.

A step is that of `ekd_tf.train` with an ArcFace head, on one device. The student is a
single small layer, so that what is seen is the head's. Every case is a process of its
own; one that grows beyond `--limit_gb` is ended and the table says so.

Of each case the traced step is searched for what must not be there: a one-hot of as
many columns as there are identities, and, where classes are sampled, any tensor with
as many rows or columns. The exit status is 1 if one is found.

    python tools/benchmarks/bench_head.py --json=bench_head.json
"""

import collections
import os
import pathlib
import statistics
import sys
import threading
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import measuring
from absl import app
from absl import flags

from ekd_tf.evaluation import format_table

IDENTITIES = flags.DEFINE_list(
    "identities", ["100000", "1000000", "2000000"], "Numbers of identities."
)
RATES = flags.DEFINE_list("rates", ["1", "0.1"], "Sample rates of the head.")
DIM = flags.DEFINE_integer("dim", 512, "Embedding size.", 1)
BATCH = flags.DEFINE_integer("batch", 64, "Rows of a batch.", 1)
OPTIMIZER = flags.DEFINE_string("optimizer", "sgd", "As of ekd_tf.train.")
SECONDS = flags.DEFINE_float(
    "seconds", 10.0, "Time to spend on the steps of a case; at least 3, at most 50."
)
LIMIT_GB = flags.DEFINE_float(
    "limit_gb", 14.0, "Size of a process in GiB (2^30) at which its case is given up."
)
JSON = flags.DEFINE_string("json", None, "File to write all measurements to.")
CASE = flags.DEFINE_string("case", None, "Internal: identities:rate to measure here.")


def make_step(identities, rate, dim, batch, optimizer="sgd"):
    """Returns a traced training step over a head, and a batch for it."""
    import keras
    import numpy as np
    import tensorflow as tf

    from ekd_tf.heads import ArcFace
    from ekd_tf.training.classifier import FaceClassifier
    from ekd_tf.training.loop import compile_step
    from ekd_tf.training.optimizers import make_optimizer

    keras.utils.set_random_seed(0)
    images = keras.Input((2, 2, 3), dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 127.5, offset=-1.0)(images))
    student = keras.Model(images, keras.layers.Dense(dim)(x))
    model = FaceClassifier(student, ArcFace(identities, sample_rate=rate))
    model.compile(make_optimizer(optimizer, 0.1, momentum=0.9), weight_decay=5e-4)
    rng = np.random.default_rng(0)
    rows = {
        "image": tf.constant(rng.integers(0, 256, (batch, 2, 2, 3)), tf.uint8),
        "label": tf.constant(rng.integers(0, identities, batch), tf.int32),
        "in_margin": tf.ones(batch),
        "image_id": tf.range(batch),
    }
    step = compile_step(model, tf.distribute.get_strategy())
    return step, rows


def tensors(concrete):
    """Yields `(operation, shape)` of every tensor a traced function computes.

    Functions within it (branches, gradients) are gone through as well. Shapes are
    lists, -1 for a size unknown; of an unknown rank None.
    """
    graph = concrete.graph.as_graph_def(add_shapes=True)
    functions = [function.node_def for function in graph.library.function]
    for node in [*graph.node, *(node for nodes in functions for node in nodes)]:
        for shape in node.attr["_output_shapes"].list.shape:
            sizes = [size.size for size in shape.dim]
            yield node.op, None if shape.unknown_rank else sizes


def wide_tensors(concrete, identities, batch, dim):
    """Counts the tensors of the size of all classes in a traced step, by kind.

    `identities` is a number no other size in the step has. `one_hot` are operations
    OneHot over all classes; `batch_by_classes` and `classes_by_dim` tensors of that
    shape or its transpose, such as logits and gradients; `unknown` matrices of which a
    size is not known while tracing.
    """
    counts = collections.Counter(
        one_hot=0, batch_by_classes=0, classes_by_dim=0, unknown=0
    )
    for operation, shape in tensors(concrete):
        if shape is None or len(shape) != 2:
            continue
        if identities in shape and operation == "OneHot":
            counts["one_hot"] += 1
        counts["batch_by_classes"] += sorted(shape) == sorted([identities, batch])
        counts["classes_by_dim"] += sorted(shape) == sorted([identities, dim])
        counts["unknown"] += -1 in shape
    return dict(counts)


def violations(counts, rate):
    """Returns what a step holds but must not, as a list of names."""
    forbidden = ["one_hot"]
    if rate < 1:
        forbidden += ["batch_by_classes", "classes_by_dim", "unknown"]
    return [name for name in forbidden if counts.get(name)]


def measure(identities, rate, limit_gb):
    """Returns what a case takes: megabytes and milliseconds."""
    dim, batch = DIM.value, BATCH.value
    # Loads kernels, so that they do not count.
    warm, rows = make_step(max(batch, 1000), rate, dim, batch, OPTIMIZER.value)
    warm(rows)
    del warm
    end_above(limit_gb)
    bare = measuring.forget_peak()
    step, rows = make_step(identities, rate, dim, batch, OPTIMIZER.value)
    building = measuring.resident_mb("VmHWM") - bare
    counts = wide_tensors(step.get_concrete_function(rows), identities, batch, dim)
    held = measuring.forget_peak()
    times, start = [], time.perf_counter()
    while len(times) < 4 or (
        len(times) <= 50 and time.perf_counter() - start < SECONDS.value
    ):
        times.append(measuring.clocked(lambda: float(step(rows)["loss"])))
    # The first step still warms up.
    wall, cpu = zip(*times[1:])
    return {
        "building_mb": round(building),
        "held_mb": round(held - bare),
        "step_mb": round(measuring.resident_mb("VmHWM") - held),
        "milliseconds": [round(ms, 2) for ms in wall],
        "cpu_milliseconds": [round(ms, 2) for ms in cpu],
        "counts": counts,
    }


def end_above(limit_gb):
    """Ends this process, as a case given up, where it grows beyond the limit."""

    def watch():
        while measuring.resident_mb() / 1024 < limit_gb:
            time.sleep(0.02)
        measuring.tell({"gave_up": f"more than {limit_gb:.1f} GiB"})
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def tell_case(identities, rate):
    """Measures a case in this process, within the limit, and tells what it took."""
    import tensorflow as tf

    # A machine without swap ends processes of its own choice when it is full.
    limit = min(LIMIT_GB.value, available_gb() - 1.0)
    state = 2 * 4 * identities * DIM.value / 2**30
    if state > limit:
        measuring.tell(
            {"gave_up": f"centres and momentum are {state:.1f} of {limit:.1f} GiB"}
        )
        return
    try:
        measuring.tell(measure(identities, rate, limit))
    except (tf.errors.ResourceExhaustedError, MemoryError):
        measuring.tell({"gave_up": "more memory than the machine gave"})


def available_gb():
    """Returns how much memory the machine has left, GiB."""
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 2**20
    raise RuntimeError("/proc/meminfo has no MemAvailable.")


HEADER = [
    "identities",
    "rate",
    "classes in the softmax",
    "centres + momentum, MB",
    "held, MB",
    "peak while built, MB",
    "a step above it, MB",
    "ms / step",
    "CPU ms",
    "one-hot",
    "batch x all",
    "all x dim",
]


def format_row(result):
    """Returns a case as a row of the table."""
    from ekd_tf.heads import num_sampled

    identities, rate = result["identities"], result["rate"]
    state = 2 * 4 * identities * DIM.value / 2**20
    classes = num_sampled(identities, rate, BATCH.value)
    cells = [f"{identities:,}", f"{rate:g}", f"{classes:,}", f"{state:,.0f}"]
    if "gave_up" in result:
        return [*cells, f"does not fit: {result['gave_up']}", *["-"] * 7]
    kinds = ("one_hot", "batch_by_classes", "classes_by_dim")
    return [
        *cells,
        *(f"{result[name]:,}" for name in ("held_mb", "building_mb", "step_mb")),
        measuring.spread(result["milliseconds"], 0),
        f"{statistics.median(result['cpu_milliseconds']):,.0f}",
        *(str(result["counts"][name]) for name in kinds),
    ]


def main(_):
    if CASE.value:
        identities, rate = CASE.value.split(":")
        tell_case(int(identities), float(rate))
        return
    names = ("dim", "batch", "optimizer")
    about = {**measuring.machine(), **{name: flags.FLAGS[name].value for name in names}}
    print(about, "\n")
    results, wrong = [], []
    for identities in map(int, IDENTITIES.value):
        for rate in map(float, RATES.value):
            measured = measuring.apart(f"--case={identities}:{rate}")
            results.append({"identities": identities, "rate": rate, **measured})
            for name in violations(measured.get("counts", {}), rate):
                wrong.append(f"{identities} identities at rate {rate:g}: {name}")
    print(format_table(map(format_row, results), HEADER))
    measuring.write_json(JSON.value, about, results)
    if wrong:
        sys.exit("A step has tensors it must not have:\n  " + "\n  ".join(wrong))


if __name__ == "__main__":
    app.run(main)
