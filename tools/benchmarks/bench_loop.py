"""Times what a run does between its steps: the call itself, progress line, TensorBoard.

The step is a distillation step of so small a student on so few rows that what the
host does shows beside it. Each case makes `--steps` steps through `run_steps`, with the
hooks a run has. The progress line is drawn as on a terminal.

    python tools/benchmarks/bench_loop.py --log_every=1
"""

import functools
import io
import itertools
import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import measuring
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


def hooks_of_cases(log, steps):
    """Returns case -> a fresh list of the hooks it has."""
    line = ProgressHook(ProgressLine(steps, stream=Terminal()), ROWS.value)
    guards = [
        UpdateGuard(50, False, None, {}, log.path.parent, lambda value: (value,)),
        CollapseGuard(100),
    ]
    metrics = Every(LOG_EVERY.value, lambda step: log.write(step.number, step.scalars))
    return {
        "step alone": [],
        "progress line": [line],
        "guards": guards,
        "metrics.jsonl and TensorBoard": [metrics],
        "all of a run": [line, *guards, metrics],
    }


def measure(step, batch, steps, turns, log):
    """Returns case -> (wall, CPU) milliseconds a step of each turn."""

    def run(case):
        hooks = hooks_of_cases(log, steps)[case]
        return measuring.clocked(
            run_steps, step, itertools.repeat(batch), 0, steps, hooks
        )

    cases = {case: functools.partial(run, case) for case in hooks_of_cases(log, steps)}
    return {case: ms / steps for case, ms in measuring.take_turns(cases, turns).items()}


def calls_alone(turns, steps=500):
    """Returns milliseconds of calling a step that does nothing, of each turn."""
    batch = {name: tf.zeros([4, 4]) for name in ("image", "label", "image_id")}
    step = tf.function(lambda batch: {"loss": batch["image"][0, 0]}, autograph=False)

    def run():
        return measuring.clocked(run_steps, step, itertools.repeat(batch), 0, steps, [])

    return measuring.take_turns({"calls": run}, turns)["calls"][:, 0] / steps


def table(times):
    """Returns the Markdown table; what a case adds is the median over turns."""
    lines, alone = [], times["step alone"]
    for case, both in times.items():
        added = "", ""
        if case != "step alone":
            added = (measuring.spread(of_turns, 2) for of_turns in (both - alone).T)
        lines.append([case, f"{np.median(both[:, 1]):.2f}", *added])
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
    calls = measuring.spread(calls_alone(TURNS.value), 3)
    print(f"\nA step that does nothing, called from the loop: {calls} ms")


if __name__ == "__main__":
    app.run(main)
