"""Times what a run does between its steps: the call itself, progress line, TensorBoard.

The step is a distillation step of so small a student on so few rows that what the
host does shows beside it. Each case makes `--steps` steps through `run_steps`, with the
hooks a run has; cases take turns, since a busy machine still tells differences. CPU
time is that of the process. The progress line is drawn as on a terminal, into a stream
that keeps nothing.

    python tools/benchmarks/bench_loop.py
    python tools/benchmarks/bench_loop.py --log_every=1
"""

import io
import itertools
import os
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from absl import app
from absl import flags

from ekd_tf.evaluation import format_table
from ekd_tf.heads import ArcFace
from ekd_tf.losses import CosineLoss
from ekd_tf.losses import EKDLoss
from ekd_tf.models import MobileFaceNet
from ekd_tf.run.hooks import CollapseGuard
from ekd_tf.run.hooks import UpdateGuard
from ekd_tf.run.logs import MetricsLog
from ekd_tf.run.progress import ProgressHook
from ekd_tf.run.progress import ProgressLine
from ekd_tf.training import Distiller
from ekd_tf.training.loop import Every
from ekd_tf.training.loop import compile_step
from ekd_tf.training.loop import run_steps

STEPS = flags.DEFINE_integer("steps", 100, "Steps of a case and turn.", 2)
TURNS = flags.DEFINE_integer("turns", 9, "Turns of each case.", 1)
LOG_EVERY = flags.DEFINE_integer("log_every", 20, "As of ekd_tf.train.", 1)
ROWS = flags.DEFINE_integer("batch", 8, "Rows of a batch.", 4)
SIZE, DIM = 32, 64


class Terminal(io.StringIO):
    """A terminal that keeps nothing."""

    def isatty(self):
        return True

    def write(self, text):
        return len(text)


def make_step(rows):
    """Returns a compiled step and its batch, teacher's rows included."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    student = MobileFaceNet(embedding_dim=DIM, width=0.125, input_size=SIZE)
    losses = {"ekd": (EKDLoss(memory=0), 8.0), "cosine": (CosineLoss(), 100.0)}
    model = Distiller(student, None, losses, ArcFace(100))
    model.compile(keras.optimizers.SGD(0.001, momentum=0.9), weight_decay=5e-4)
    batch = {
        "image": rng.integers(0, 256, (rows, SIZE, SIZE, 3), np.uint8),
        "label": (np.arange(rows) // 2).astype(np.int32),
        "in_margin": np.ones(rows, np.float32),
        "image_id": np.arange(rows, dtype=np.int32),
        "teacher": rng.normal(size=(rows, DIM)).astype(np.float32),
    }
    batch = {key: tf.constant(value) for key, value in batch.items()}
    return compile_step(model, tf.distribute.get_strategy()), batch


def hooks_of(case, log, steps):
    """Returns a fresh list of the hooks of a case."""
    progress = ProgressLine(steps, stream=Terminal())
    line = ProgressHook(progress, ROWS.value)
    guards = [
        UpdateGuard(50, False, None, [], log.path.parent, lambda value: (value,)),
        CollapseGuard(100),
    ]
    metrics = Every(LOG_EVERY.value, lambda step: log.write(step.number, step.scalars))
    all_of_run = [line, *guards, metrics]
    return dict(zip(CASES, ([], [line], guards, [metrics], all_of_run)))[case]


CASES = (
    "step alone",
    "progress line",
    "guards",
    "metrics.jsonl and TensorBoard",
    "all of a run",
)


def measure(step, batch, steps, turns, log):
    """Returns case -> list of (wall, CPU) milliseconds a step."""
    times = {case: [] for case in CASES}
    for turn in range(turns + 1):
        first = turn % len(CASES)
        for case in CASES[first:] + CASES[:first]:
            hooks = hooks_of(case, log, steps)
            wall, cpu = time.perf_counter(), time.process_time()
            run_steps(step, itertools.repeat(batch), 0, steps, hooks)
            spent = time.perf_counter() - wall, time.process_time() - cpu
            if turn:
                times[case].append([1e3 * t / steps for t in spent])
    return times


def calls_alone(turns):
    """Returns milliseconds of calling a step that does nothing, one per turn."""
    batch = {name: tf.zeros([4, 4]) for name in ("image", "label", "image_id")}
    step = tf.function(lambda batch: {"loss": batch["image"][0, 0]}, autograph=False)
    times = []
    for _ in range(turns + 1):
        start = time.perf_counter()
        run_steps(step, itertools.repeat(batch), 0, 500, [])
        times.append(1e3 * (time.perf_counter() - start) / 500)
    return times[1:]


def table(times):
    """Returns the Markdown table; what a case adds is the median over turns."""
    lines = []
    for case, rows in times.items():
        added = [[], []]
        for mine, alone in zip(rows, times["step alone"]):
            for i in (0, 1):
                added[i].append(mine[i] - alone[i])
        wall, cpu = (
            f"{statistics.median(a):.2f} ({min(a):.2f}..{max(a):.2f})" for a in added
        )
        cpu_alone = statistics.median(row[1] for row in rows)
        if case == "step alone":
            wall = cpu = ""
        lines.append([case, f"{cpu_alone:.2f}", wall, cpu])
    added = ("adds, wall ms a step", "adds, CPU ms a step")
    return format_table(lines, ["case", "CPU ms a step", *added])


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    step, batch = make_step(ROWS.value)
    scalars = step(batch)
    with tempfile.TemporaryDirectory() as folder:
        log = MetricsLog(folder)
        times = measure(step, batch, STEPS.value, TURNS.value, log)
        log.close()
    print(f"{len(scalars)} scalars a step, written every {LOG_EVERY.value} steps\n")
    print(table(times))
    calls = calls_alone(TURNS.value)
    print(
        f"\nA step that does nothing, called from the loop: "
        f"{statistics.median(calls):.3f} ({min(calls):.3f}..{max(calls):.3f}) ms"
    )


if __name__ == "__main__":
    app.run(main)
