"""Counts what a distillation step sends between replicas, and times it on one machine.

The step is that of `ekd_tf.train`: MobileFaceNet, ArcFace and EKD, the teacher's rows
in the batch. What its replicas hand to each other is counted while it is traced
(`step_traffic.py`); a matrix of rows x rows, an image or anything unheard of ends the
benchmark. The counts must also be those of the formula, from which the table for GPUs
is computed, and no collective operation of the traced graph may carry more.

One process can gather over one number of replicas only, so each number has its own.
Workers are processes of one replica each, which talk over sockets; their CPU time is
added up.

    python tools/benchmarks/bench_scaling.py --json=bench_scaling.json
"""

import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app
from absl import flags
from step_traffic import KINDS
from step_traffic import Sizes
from step_traffic import bytes_by_kind
from step_traffic import computed
from step_traffic import largest_collective
from step_traffic import sent
from step_traffic import traced

from ekd_tf.run.quiet import use_onednn

REPLICAS = flags.DEFINE_list("replicas", ["1", "2", "4"], "Virtual replicas to run.")
WORKERS = flags.DEFINE_list("workers", ["2"], "Numbers of workers to run besides.")
BATCH = flags.DEFINE_integer("batch", 32, "Rows of the global batch measured.", 8)
IDENTITIES = flags.DEFINE_integer("identities", 5000, "Of the head measured.", 2)
RATE = flags.DEFINE_float("rate", 1.0, "Sample rate of the head measured.")
WIDTH = flags.DEFINE_float("width", 1.0, "Width of the MobileFaceNet measured.")
INPUT_SIZE = flags.DEFINE_integer("input_size", 112, "Side of its images.", 32)
STEPS = flags.DEFINE_integer("steps", 8, "Steps timed, after two that are not.", 1)
JSON = flags.DEFINE_string("json", None, "File to write all measurements to.")
MEASURE = flags.DEFINE_integer("measure", None, "Internal: replicas to measure here.")
HOSTS = flags.DEFINE_list("hosts", [], "Internal: addresses of the workers.")
INDEX = flags.DEFINE_integer("index", None, "Internal: which of them this is.")

MARK = "result="


def make_model(student, identities, rate=1.0):
    """Returns a compiled `Distiller` by EKD from rows in the batch."""
    from ekd_tf.heads import ArcFace
    from ekd_tf.losses import EKDLoss
    from ekd_tf.training.distiller import Distiller
    from ekd_tf.training.optimizers import make_optimizer

    head = ArcFace(identities, sample_rate=rate)
    model = Distiller(student, None, {"ekd": (EKDLoss(memory=0), 8.0)}, head)
    model.compile(make_optimizer("sgd", 0.01, momentum=0.9))
    return model


def make_batch(rows, identities, size, dim):
    """Returns a global batch of random pixels and rows of a teacher."""
    import numpy as np
    import tensorflow as tf

    rng = np.random.default_rng(0)
    labels = np.repeat(rng.integers(0, identities, rows // 2), 2)
    return {
        "image": tf.constant(rng.integers(0, 256, (rows, size, size, 3)), tf.uint8),
        "label": tf.constant(labels, tf.int32),
        "in_margin": tf.ones(rows),
        "image_id": tf.range(rows),
        "teacher": tf.constant(rng.normal(size=(rows, dim)), tf.float32),
    }


def measure(replicas):
    """Prints as JSON what a step on so many replicas here sends and takes."""
    import tensorflow as tf

    from ekd_tf.heads import num_sampled
    from ekd_tf.models import MobileFaceNet
    from ekd_tf.training.strategy import make_strategy
    from ekd_tf.training.strategy import set_virtual_devices

    if HOSTS.value:
        strategy = make_strategy("multi_worker", HOSTS.value, INDEX.value)
    else:
        set_virtual_devices(replicas)
        strategy = make_strategy("none" if replicas == 1 else "mirrored")
    replicas = strategy.num_replicas_in_sync
    with strategy.scope():
        student = MobileFaceNet(width=WIDTH.value, input_size=INPUT_SIZE.value)
        model = make_model(student, IDENTITIES.value, RATE.value)
    dim, size = student.output_shape[-1], INPUT_SIZE.value
    batch = make_batch(BATCH.value, IDENTITIES.value, size, dim)
    step, batches, calls = traced(model, strategy, batch)
    sizes = Sizes(
        replicas,
        BATCH.value // replicas,
        dim,
        sum(int(tf.size(v)) for v in student.trainable_variables),
        num_sampled(IDENTITIES.value, RATE.value, BATCH.value),
        RATE.value < 1,
    )
    volume = dict.fromkeys(KINDS, 0)
    if replicas > 1:
        volume = bytes_by_kind(calls, sizes.batch, replicas, dim)
        if volume != computed(sizes):
            raise ValueError(f"Counted {volume}, computed {computed(sizes)}")
    seconds, cpu_seconds = [], []
    for _ in range(STEPS.value + 2):
        start, cpu_start = time.perf_counter(), time.process_time()
        float(step(next(batches))["loss"])
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    result = {
        "sizes": dataclasses.asdict(sizes),
        "bytes": volume,
        "largest_collective": largest_collective(step, batches),
        "milliseconds": [round(1e3 * s, 1) for s in seconds[2:]],
        "cpu_milliseconds": [round(1e3 * s, 1) for s in cpu_seconds[2:]],
    }
    print(MARK + json.dumps(result), flush=True)


def start(replicas, hosts=(), index=None):
    """Starts a process that prints what `measure` does."""
    names = ("batch", "identities", "rate", "width", "input_size", "steps")
    arguments = [f"--{name}={flags.FLAGS[name].value}" for name in names]
    if hosts:
        arguments += [f"--hosts={','.join(hosts)}", f"--index={index}"]
    return subprocess.Popen(
        [sys.executable, __file__, f"--measure={replicas}", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result_of(process):
    """Returns what a process of `start` prints."""
    output, errors = process.communicate()
    for line in output.splitlines():
        if line.startswith(MARK):
            return json.loads(line[len(MARK) :])
    raise RuntimeError(f"{process.args} failed:\n{errors[-3000:]}")


def of_replicas(replicas):
    """Returns the measurements of virtual replicas."""
    return {"name": f"{replicas} replicas", **result_of(start(replicas))}


def of_workers(workers):
    """Returns the measurements of workers: the first one's, CPU time of all.

    Raises:
        ValueError: They send different amounts.
    """
    sockets = [socket.create_server(("localhost", 0)) for _ in range(workers)]
    hosts = [f"localhost:{s.getsockname()[1]}" for s in sockets]
    for reserved in sockets:
        reserved.close()
    processes = [start(1, hosts, index) for index in range(workers)]
    results = [result_of(process) for process in processes]
    if any(r["bytes"] != results[0]["bytes"] for r in results):
        raise ValueError(f"Workers send {[r['bytes'] for r in results]}")
    cpu = [sum(of_step) for of_step in zip(*(r["cpu_milliseconds"] for r in results))]
    return {"name": f"{workers} workers", **results[0], "cpu_milliseconds": cpu}


def print_table(header, rows):
    print("\n| " + " | ".join(header) + " |")
    print("|---" + "|---:" * (len(header) - 1) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def volume_table(columns):
    """Prints bytes a replica contributes, and sends by a ring, for several `Sizes`."""
    volumes = [computed(sizes) for sizes in columns]
    header = ["a replica's part, bytes", *(f"{s.replicas} replicas" for s in columns)]
    rows = [[kind, *(f"{v[kind]:,}" for v in volumes)] for kind in KINDS]
    ring = [
        sum(sent(kind, size, s.replicas) for kind, size in v.items()) / 2**20
        for s, v in zip(columns, volumes)
    ]
    rows.append(["sent by a ring, MB", *(f"{mb:,.1f}" for mb in ring)])
    without = [
        sum(sent(k, v[k], s.replicas) for k in KINDS if "head" not in k) / 2**20
        for s, v in zip(columns, volumes)
    ]
    rows.append(["the same without the head, MB", *(f"{mb:,.1f}" for mb in without)])
    pairs = [(s.replicas * s.batch) ** 2 * 4 / 2**20 for s in columns]
    rows.append(["never sent: all cosines, MB", *(f"{mb:,.1f}" for mb in pairs)])
    print_table(header, rows)


def main(_):
    use_onednn()
    if MEASURE.value:
        measure(MEASURE.value)
        return
    results = [of_replicas(int(replicas)) for replicas in REPLICAS.value]
    results += [of_workers(int(workers)) for workers in WORKERS.value]
    print(
        f"MobileFaceNet of width {WIDTH.value:g}, {INPUT_SIZE.value} px, global batch "
        f"{BATCH.value}, {IDENTITIES.value:,} identities at rate {RATE.value:g}; load "
        f"{os.getloadavg()[0]:.1f}. Counted, and equal to the formula:"
    )
    header = ["a replica's part, bytes"]
    header += [r["name"] for r in results]
    rows = [[kind, *(f"{r['bytes'][kind]:,}" for r in results)] for kind in KINDS]
    rows.append(
        [
            "most numbers in a collective",
            *(f"{r['largest_collective']:,}" for r in results),
        ]
    )
    for name in ("milliseconds", "cpu_milliseconds"):
        times = [sorted(r[name]) for r in results]
        rows.append(
            [
                f"{name} a step",
                *(f"{t[len(t) // 2]:,.0f} ({t[0]:,.0f}..{t[-1]:,.0f})" for t in times),
            ]
        )
    print_table(header, rows)
    print(
        "\nComputed for the paper's student (1,199,488 parameters) and MS1MV2's 85,742 "
        "identities, 128 rows a replica; the last two columns at sample rate 0.1:"
    )
    paper = {"batch": 128, "dim": 512, "student": 1_199_488}
    volume_table(
        [Sizes(n, classes=85_742, **paper) for n in (8, 64)]
        + [Sizes(n, classes=8_575, sampled=True, **paper) for n in (8, 64)]
    )
    if JSON.value:
        pathlib.Path(JSON.value).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
