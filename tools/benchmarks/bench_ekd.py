"""Times `EKDLoss`, forward and backward, beside the plain way to write it.

Three cases, each a function of student and teacher embeddings:

- ours: `ekd_tf.losses.EKDLoss` in its published form.
- plain: the same maths written straight down. All cosines of both models, both models'
  negatives sorted in full, and the gradient carried back through the student's matrix.
- floor: the two matrix products without which no formulation knows its pairs. Ours
  needs a little more than half of each, so it can be below.

Per batch size and mode the cases take turns in one process, since a busy machine still
tells ratios. Peak memory is that of a first step in a process of its own.

    python tools/benchmarks/bench_ekd.py --json=bench_ekd.json

With `--default_form` "ours" is the default form, with its memory of earlier batches,
and every turn has another batch, since a memory of one batch alone would be all its
copies. The other two cases stay what they are: the ratio is what the default costs
beside plain EKD.

TensorFlow's kernels are those the commands of `ekd_tf` ask for (`ekd_tf.run.quiet`).
"""

import json
import os
import pathlib
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from ekd_tf.run.quiet import use_onednn

use_onednn()

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from absl import app  # noqa: E402
from absl import flags  # noqa: E402
from plain_ekd import PUBLISHED  # noqa: E402
from plain_ekd import PlainEKD  # noqa: E402
from resident import forget_peak  # noqa: E402
from resident import machine  # noqa: E402
from resident import resident_mb  # noqa: E402

from ekd_tf.evaluation import format_table  # noqa: E402
from ekd_tf.losses import EKDLoss  # noqa: E402

BATCHES = flags.DEFINE_list("batches", ["64", "256", "1024", "4096"], "Batch sizes.")
MODES = flags.DEFINE_list("modes", ["graph", "eager"], "How steps run.")
DIM = flags.DEFINE_integer("dim", 512, "Embedding size of student and teacher.")
SECONDS = flags.DEFINE_float(
    "seconds", 20.0, "Time to spend per batch size and mode; at least 5 repeats."
)
MEMORY = flags.DEFINE_bool("memory", True, "Whether to measure peak memory.")
JSON = flags.DEFINE_string("json", None, "File to write all measurements to.")
DEFAULT_FORM = flags.DEFINE_bool(
    "default_form", False, "Measure EKD's default form in place of the published one."
)
MEMORY_OF = flags.DEFINE_string(
    "memory_of", None, "Internal: case:mode:batch whose peak memory to print, in MB."
)

NUM_IDENTITIES = 85_742
# More rows than the default form remembers.
DIFFERENT_ROWS = 4096
MAX_REPEATS = 200
HEADER = ["batch", "mode", "ours", "plain", "floor", "plain / ours", "ours / floor"]
HEADER += ["ours MB", "plain MB", "ours, first call s"]


def make_batch(batch, dim, seed=0):
    """Returns student, teacher and labels: half random identities, half four each.

    Positives have a cosine of about 0.6 for the teacher and 0.4 for the student.
    """
    rng = np.random.default_rng(seed)
    general = rng.integers(0, NUM_IDENTITIES, batch // 2)
    balanced = np.repeat(rng.choice(NUM_IDENTITIES, batch // 8, replace=False), 4)
    labels = np.concatenate([general, balanced])
    _, inverse = np.unique(labels, return_inverse=True)
    centres = rng.normal(size=(inverse.max() + 1, dim))[inverse]
    teacher = centres + 0.8 * rng.normal(size=centres.shape)
    student = centres + 1.2 * rng.normal(size=centres.shape)
    return (
        tf.constant(student, tf.float32),
        tf.constant(teacher, tf.float32),
        tf.constant(labels, tf.int32),
    )


def make_case(case, mode):
    """Returns a function of a batch that runs one forward and backward pass."""
    if case == "floor":

        def step(student, teacher, labels):
            return (
                tf.matmul(student, student, transpose_b=True),
                tf.matmul(teacher, teacher, transpose_b=True),
            )

    else:
        if case == "ours":
            form = PUBLISHED
            if DEFAULT_FORM.value:
                form = {"student_dim": DIM.value, "teacher_dim": DIM.value}
            layer = EKDLoss(**form)

            def loss(*batch):
                return sum(layer(*batch).values())

        else:
            loss = PlainEKD()

        def step(student, teacher, labels):
            with tf.GradientTape() as tape:
                tape.watch(student)
                value = loss(student, teacher, labels)
            return value, tape.gradient(value, student)

    return step if mode == "eager" else tf.function(step)


def timed(step, batch):
    start = time.perf_counter()
    results = step(*batch)
    # A value that is read is there.
    _ = results[0][..., None].numpy().ravel()[0], results[1][0, 0].numpy()
    return 1e3 * (time.perf_counter() - start)


def check_agreement(steps, batch, where):
    """Fails unless both formulations return the same loss and gradient."""
    loss, gradient = steps["ours"](*batch)
    plain_loss, plain_gradient = steps["plain"](*batch)
    np.testing.assert_allclose(loss, plain_loss, rtol=1e-4, err_msg=where)
    scale = np.abs(plain_gradient).max()
    np.testing.assert_allclose(
        gradient, plain_gradient, rtol=1e-2, atol=1e-3 * scale, err_msg=where
    )


def time_cases(batch_size, mode):
    """Returns one row per case: milliseconds of every repeat, cases taking turns."""
    count = -(-DIFFERENT_ROWS // batch_size) if DEFAULT_FORM.value else 1
    batches = [make_batch(batch_size, DIM.value, seed) for seed in range(count)]
    batch = batches[0]
    cases = ["ours", "plain", "floor"]
    steps, first = {}, {}
    for case in cases:
        start = time.perf_counter()
        steps[case] = make_case(case, mode)
        steps[case](*batch)
        first[case] = time.perf_counter() - start
    if not DEFAULT_FORM.value:
        check_agreement(steps, batch, f"{mode}, batch {batch_size}")
    start = time.perf_counter()
    times = {case: [timed(steps[case], batch)] for case in cases}
    round_seconds = time.perf_counter() - start
    repeats = int(np.clip(SECONDS.value / round_seconds, 5, MAX_REPEATS))
    for turn in range(repeats):
        for case in cases:
            times[case].append(timed(steps[case], batches[turn % count]))
    return [
        {
            "batch": batch_size,
            "mode": mode,
            "case": case,
            # The first turn still warms up.
            "milliseconds": [round(ms, 3) for ms in times[case][1:]],
            "first_call_seconds": round(first[case], 2),
        }
        for case in cases
    ]


def print_peak_memory(case, mode, batch_size):
    """Prints how many MB a first step takes above what TensorFlow takes anyway.

    TensorFlow keeps what it has freed, so only a first step shows its need.
    """
    step = make_case(case, mode)
    # Loads kernels.
    step(*make_batch(8, DIM.value))
    batch = make_batch(batch_size, DIM.value)
    if mode == "graph":
        step.get_concrete_function(*batch)
    before = forget_peak()
    step(*batch)
    print(f"peak_mb={resident_mb('VmHWM') - before:.0f}")


def peak_memory(case, mode, batch_size):
    """Returns the MB a step needs at its peak, measured in a new process."""
    result = subprocess.run(
        [
            sys.executable,
            __file__,
            f"--memory_of={case}:{mode}:{batch_size}",
            f"--dim={DIM.value}",
            *(["--default_form"] if DEFAULT_FORM.value else []),
        ],
        capture_output=True,
        text=True,
    )
    for line in result.stdout.splitlines():
        if line.startswith("peak_mb="):
            return int(line.partition("=")[2])
    raise RuntimeError(f"Measuring memory failed:\n{result.stderr[-2000:]}")


def format_row(rows):
    """Returns the table row of one batch size and mode."""
    by_case = {row["case"]: row for row in rows}

    def spread(case):
        ms = by_case[case]["milliseconds"]
        return f"{np.median(ms):.1f} ({min(ms):.1f}..{max(ms):.1f})"

    def ratio(above, below):
        # Of the turns, so that a moment of load counts on both sides.
        turns = zip(by_case[above]["milliseconds"], by_case[below]["milliseconds"])
        return np.median([x / y for x, y in turns])

    def memory(case):
        return str(by_case.get(case, {}).get("peak_mb", "-"))

    return [
        rows[0]["batch"],
        rows[0]["mode"],
        spread("ours"),
        spread("plain"),
        spread("floor"),
        f"{ratio('plain', 'ours'):.1f}x",
        f"{ratio('ours', 'floor'):.1f}x",
        memory("ours"),
        memory("plain"),
        f"{by_case['ours']['first_call_seconds']:.1f}",
    ]


def main(_):
    if MEMORY_OF.value:
        case, mode, batch_size = MEMORY_OF.value.split(":")
        print_peak_memory(case, mode, int(batch_size))
        return
    about = {
        **machine(),
        "tensorflow": tf.__version__,
        "onednn": os.environ["TF_ENABLE_ONEDNN_OPTS"],
        "keras": keras.__version__,
        "dim": DIM.value,
    }
    print(about, "\nMilliseconds: median (min..max). Memory: MB of a first step.\n")
    results, table = [], []
    for batch_size in map(int, BATCHES.value):
        for mode in MODES.value:
            rows = time_cases(batch_size, mode)
            for row in rows:
                if MEMORY.value and row["case"] != "floor":
                    row["peak_mb"] = peak_memory(row["case"], mode, batch_size)
            table.append(format_row(rows))
            results += rows
    print(format_table(table, HEADER))
    if JSON.value:
        report = json.dumps({"machine": about, "results": results}, indent=1)
        pathlib.Path(JSON.value).write_text(report + "\n", encoding="utf-8")


if __name__ == "__main__":
    app.run(main)
