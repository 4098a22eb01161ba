"""Times `EKDLoss`, forward and backward, beside the plain way to write it.

The cases are ours, the plain way, and a floor: the two matrix products without which no
formulation knows its pairs. Ours needs a little more than half of each, so it can be
below. Peak memory is that of a first step in a process of its own.

    python tools/benchmarks/bench_ekd.py --json=bench_ekd.json

With `--default_form` every turn has another batch, since a memory of one batch alone
would be all its copies.
"""

import functools
import itertools
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from ekd_tf.run.quiet import use_onednn

use_onednn()

import keras  # noqa: E402
import measuring  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from absl import app  # noqa: E402
from absl import flags  # noqa: E402

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
    "memory_of", None, "Internal: case:mode:batch whose peak memory to tell, in MB."
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


class PlainEKD:
    """The published loss written straight down, all through the full matrix.

    It picks pairs by `boolean_mask`, which XLA does not take.
    """

    def __init__(self):
        self.settings = EKDLoss.reference()
        count = len(self.settings.miner.fprs)
        self.thresholds = [tf.Variable(tf.zeros([count])) for _ in range(2)]

    def __call__(self, student, teacher, labels):
        settings = self.settings
        units = [tf.math.l2_normalize(rows, axis=1) for rows in (student, teacher)]
        cosines = [tf.matmul(rows, rows, transpose_b=True) for rows in units]
        rows = tf.range(tf.shape(labels)[0])
        upper = rows[:, None] < rows[None, :]
        same = labels[:, None] == labels[None, :]
        positive = [tf.boolean_mask(each, upper & same) for each in cosines]
        negative = [tf.boolean_mask(each, upper & ~same) for each in cosines]
        order = tf.argsort(negative[0], direction="DESCENDING")
        descending = tf.gather(negative[0], order), tf.sort(negative[1])[::-1]
        fprs = settings.miner.fprs
        ranks = tf.stack([tf.size(order) // round(1 / fpr) for fpr in fprs])
        for variable, values in zip(self.thresholds, descending):
            new = tf.stop_gradient(tf.gather(values, ranks))
            variable.assign_add(settings.momentum * (new - variable))
        hardest = order[: settings.miner.num_negatives]
        positive_loss = self.difference(positive)
        negative_loss = self.difference([tf.gather(each, hardest) for each in negative])
        return (
            settings.positive_weight * positive_loss
            + settings.negative_weight * negative_loss
        )

    def difference(self, cosines):
        ranks = []
        for values, thresholds in zip(cosines, self.thresholds):
            margins = values[..., None] - tf.convert_to_tensor(thresholds)
            ranks.append(tf.sigmoid(margins / self.settings.temperature))
        student, teacher = (tf.reduce_sum(rank, axis=-1) for rank in ranks)
        return tf.reduce_mean(tf.square(student - tf.stop_gradient(teacher)))


def make_case(case, mode):
    """Returns a function of a batch that runs one forward and backward pass."""
    if case == "floor":

        def step(student, teacher, labels):
            return (
                tf.matmul(student, student, transpose_b=True),
                tf.matmul(teacher, teacher, transpose_b=True),
            )

    else:
        loss = PlainEKD()
        if case == "ours":
            layer = EKDLoss.reference()
            if DEFAULT_FORM.value:
                layer = EKDLoss(student_dim=DIM.value, teacher_dim=DIM.value)

            def loss(*batch):
                return sum(layer(*batch).values())

        def step(student, teacher, labels):
            with tf.GradientTape() as tape:
                tape.watch(student)
                value = loss(student, teacher, labels)
            return value, tape.gradient(value, student)

    return step if mode == "eager" else tf.function(step)


def time_step(step, batches):
    def run(batch):
        results = step(*batch)
        # A value that is read is there.
        _ = results[0][..., None].numpy().ravel()[0], results[1][0, 0].numpy()

    return measuring.clocked(run, next(batches))


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
    """Returns, by case, milliseconds of every turn, and seconds of the first call."""
    count = -(-DIFFERENT_ROWS // batch_size) if DEFAULT_FORM.value else 1
    batches = [make_batch(batch_size, DIM.value, seed) for seed in range(count)]
    steps, first, cases = {}, {}, {}
    for case in ("ours", "plain", "floor"):
        start = time.perf_counter()
        step = steps[case] = make_case(case, mode)
        step(*batches[0])
        first[case] = time.perf_counter() - start
        cases[case] = functools.partial(time_step, step, itertools.cycle(batches))
    if not DEFAULT_FORM.value:
        check_agreement(steps, batches[0], f"{mode}, batch {batch_size}")
    start = time.perf_counter()
    measuring.take_turns(cases, 0)
    repeats = SECONDS.value / (time.perf_counter() - start)
    times = measuring.take_turns(cases, int(np.clip(repeats, 5, MAX_REPEATS)))
    return {case: both[:, 0] for case, both in times.items()}, first


def tell_peak_memory(case, mode, batch_size):
    """Tells how many MB a first step takes above what TensorFlow takes anyway.

    TensorFlow keeps what it has freed, so only a first step shows its need.
    """
    step = make_case(case, mode)
    # Loads kernels.
    step(*make_batch(8, DIM.value))
    batch = make_batch(batch_size, DIM.value)
    if mode == "graph":
        step.get_concrete_function(*batch)
    before = measuring.forget_peak()
    step(*batch)
    measuring.tell(round(measuring.resident_mb("VmHWM") - before))


def measure(batch_size, mode):
    """Returns the table row of a batch size and mode, and a result for each case."""
    times, first = time_cases(batch_size, mode)
    peaks = {}
    for case in ("ours", "plain") if MEMORY.value else ():
        peaks[case] = measuring.apart(f"--memory_of={case}:{mode}:{batch_size}")
    row = [
        batch_size,
        mode,
        *map(measuring.spread, times.values()),
        # Of the turns, so that a moment of load counts on both sides.
        f"{np.median(times['plain'] / times['ours']):.1f}x",
        f"{np.median(times['ours'] / times['floor']):.1f}x",
        *(str(peaks.get(case, "-")) for case in ("ours", "plain")),
        f"{first['ours']:.1f}",
    ]
    results = [
        {
            "batch": batch_size,
            "mode": mode,
            "case": case,
            "milliseconds": np.round(times[case], 3).tolist(),
            "first_call_seconds": round(first[case], 2),
            **({"peak_mb": peaks[case]} if case in peaks else {}),
        }
        for case in times
    ]
    return row, results


def main(_):
    if MEMORY_OF.value:
        case, mode, batch_size = MEMORY_OF.value.split(":")
        tell_peak_memory(case, mode, int(batch_size))
        return
    about = {
        **measuring.machine(),
        "tensorflow": tf.__version__,
        "onednn": os.environ["TF_ENABLE_ONEDNN_OPTS"],
        "keras": keras.__version__,
        "dim": DIM.value,
    }
    print(about, "\nMilliseconds: median (min..max). Memory: MB of a first step.\n")
    results, table = [], []
    for batch_size in map(int, BATCHES.value):
        for mode in MODES.value:
            row, cases = measure(batch_size, mode)
            table.append(row)
            results += cases
    print(format_table(table, HEADER))
    measuring.write_json(JSON.value, about, results)


if __name__ == "__main__":
    app.run(main)
