"""Measures a margin head over very many identities: memory and time of a step.

A step is that of `ekd_tf.train`: `FaceClassifier.train_step` with an ArcFace head, SGD
of momentum 0.9 and weight decay, on one device. The student is a single small layer, so
that what is seen is the head's. Every case is a process of its own, since TensorFlow
keeps what it has freed; one that grows beyond `--limit_gb` is ended and the table says
so.

Of each case the traced step is searched for what must not be there: a one-hot of as
many columns as there are identities, and, where classes are sampled, any tensor with
as many rows or columns: logits, gradients, momentum. The exit status is 1 if one is
found.

    python tools/benchmarks/bench_head.py --json=bench_head.json
"""

import collections
import json
import os
import pathlib
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app
from absl import flags
from resident import forget_peak
from resident import machine
from resident import resident_mb

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

MARK = "result="


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
    """Counts the tensors of the size of all classes in a traced step.

    Args:
        concrete: The traced step.
        identities: Int: all classes, a number no other size in the step has.
        batch: Int, rows of a batch.
        dim: Int, embedding size.

    Returns:
        Dict: `one_hot`: operations OneHot over all classes; `batch_by_classes` and
        `classes_by_dim`: tensors of that shape or its transpose, such as logits and
        gradients; `unknown`: matrices of which a size is not known while tracing.
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
    return [name for name in forbidden if counts[name]]


def measure(identities, rate):
    """Prints what a case takes, as JSON: megabytes and milliseconds."""
    dim, batch = DIM.value, BATCH.value
    # Loads kernels, so that they do not count.
    warm, rows = make_step(max(batch, 1000), rate, dim, batch, OPTIMIZER.value)
    warm(rows)
    del warm
    bare = forget_peak()
    step, rows = make_step(identities, rate, dim, batch, OPTIMIZER.value)
    building = resident_mb("VmHWM") - bare
    counts = wide_tensors(step.get_concrete_function(rows), identities, batch, dim)
    held = forget_peak()
    times, cpu_times = [], []
    start = time.perf_counter()
    while len(times) < 4 or (
        len(times) <= 50 and time.perf_counter() - start < SECONDS.value
    ):
        before, cpu_before = time.perf_counter(), time.process_time()
        float(step(rows)["loss"])
        times.append(1e3 * (time.perf_counter() - before))
        cpu_times.append(1e3 * (time.process_time() - cpu_before))
    result = {
        "building_mb": round(building),
        "held_mb": round(held - bare),
        "step_mb": round(resident_mb("VmHWM") - held),
        # The first step still warms up.
        "milliseconds": [round(ms, 2) for ms in times[1:]],
        "cpu_milliseconds": [round(ms, 2) for ms in cpu_times[1:]],
        "counts": counts,
    }
    print(MARK + json.dumps(result), flush=True)


def available_gb():
    """Returns how much memory the machine has left, GiB."""
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 2**20
    raise RuntimeError("/proc/meminfo has no MemAvailable.")


def run_case(identities, rate):
    """Measures a case in a new process, ended where it grows beyond the limit.

    Returns:
        Dict of the case with what `measure` has found, or with `gave_up`: a sentence.
    """
    case = {"identities": identities, "rate": rate}
    # A machine without swap ends processes of its own choice when it is full.
    limit = min(LIMIT_GB.value, available_gb() - 1.0)
    state = 2 * 4 * identities * DIM.value / 2**30
    if state > limit:
        return {
            **case,
            "gave_up": f"centres and momentum are {state:.1f} of {limit:.1f} GiB",
        }
    child = subprocess.Popen(
        [
            sys.executable,
            __file__,
            f"--case={identities}:{rate}",
            f"--dim={DIM.value}",
            f"--batch={BATCH.value}",
            f"--optimizer={OPTIMIZER.value}",
            f"--seconds={SECONDS.value}",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while child.poll() is None:
        try:
            size = resident_mb(process=child.pid) / 1024
        except (RuntimeError, FileNotFoundError):
            # It has just ended.
            break
        if size > limit:
            child.kill()
            child.communicate()
            return {**case, "gave_up": f"more than {limit:.1f} GiB"}
        time.sleep(0.02)
    output, errors = child.communicate()
    for line in output.splitlines():
        if line.startswith(MARK):
            return {**case, **json.loads(line[len(MARK) :])}
    if "ResourceExhausted" in errors or "MemoryError" in errors:
        return {**case, "gave_up": "more memory than the machine gave"}
    raise RuntimeError(f"Measuring {case} failed:\n{errors[-2000:]}")


def format_row(result):
    """Returns a case as a row of the table."""
    from ekd_tf.heads import num_sampled

    identities, rate = result["identities"], result["rate"]
    state = 2 * 4 * identities * DIM.value / 2**20
    classes = num_sampled(identities, rate, BATCH.value)
    cells = [f"{identities:,}", f"{rate:g}", f"{classes:,}", f"{state:,.0f}"]
    if "gave_up" in result:
        return [*cells, f"does not fit: {result['gave_up']}", *["-"] * 7]
    ms, cpu_ms = sorted(result["milliseconds"]), sorted(result["cpu_milliseconds"])
    kinds = ("one_hot", "batch_by_classes", "classes_by_dim")
    return [
        *cells,
        *(f"{result[name]:,}" for name in ("held_mb", "building_mb", "step_mb")),
        f"{ms[len(ms) // 2]:,.0f} ({ms[0]:,.0f}..{ms[-1]:,.0f})",
        f"{cpu_ms[len(cpu_ms) // 2]:,.0f}",
        *(str(result["counts"][name]) for name in kinds),
    ]


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


def main(_):
    if CASE.value:
        identities, rate = CASE.value.split(":")
        measure(int(identities), float(rate))
        return
    names = ("dim", "batch", "optimizer")
    about = {**machine(), **{name: flags.FLAGS[name].value for name in names}}
    print(about, "\n")
    results, wrong = [], []
    for identities in map(int, IDENTITIES.value):
        for rate in map(float, RATES.value):
            result = run_case(identities, rate)
            results.append(result)
            for name in (
                violations(result["counts"], rate) if "counts" in result else []
            ):
                wrong.append(f"{identities} identities at rate {rate:g}: {name}")
    print(format_table(map(format_row, results), HEADER))
    if JSON.value:
        report = json.dumps({"machine": about, "results": results}, indent=1)
        pathlib.Path(JSON.value).write_text(report + "\n", encoding="utf-8")
    if wrong:
        sys.exit("A step has tensors it must not have:\n  " + "\n  ".join(wrong))


if __name__ == "__main__":
    app.run(main)
