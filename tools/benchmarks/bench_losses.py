"""Times every distillation loss with its gradient on a batch of embeddings.

Embeddings are drawn: those of the teacher around a centre per identity, the student's
around the teacher's.

    python tools/benchmarks/bench_losses.py --threads=1
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import measuring
import numpy as np
import tensorflow as tf
from absl import app
from absl import flags

from ekd_tf.evaluation import format_table
from ekd_tf.heads import ArcFace
from ekd_tf.losses import LOSSES
from ekd_tf.run.factory import make_losses

GENERAL = flags.DEFINE_integer("general", 64, "General rows.", 0)
BALANCED = flags.DEFINE_integer("balanced", 16, "Identities of two rows each.", 0)
DIM = flags.DEFINE_integer("dim", 128, "Size of both embeddings.", 1)
IDENTITIES = flags.DEFINE_integer("identities", 8767, "Training identities.", 2)
TURNS = flags.DEFINE_integer("turns", 30, "Timed calls of each loss.", 1)
THREADS = flags.DEFINE_integer("threads", 1, "Threads.", 1)
LOSS = flags.DEFINE_multi_string("loss", list(LOSSES), "NAME:WORD=VALUE; repeated.")
# The first calls trace, and fill the memory of losses that have one.
WARM_UP = 25


def batches(centres):
    """Yields student, teacher, labels, image ids."""
    rng = np.random.default_rng(0)
    while True:
        labels = rng.integers(0, IDENTITIES.value, GENERAL.value + BALANCED.value)
        labels = np.append(labels, labels[GENERAL.value :]).astype(np.int32)
        noise = rng.normal(size=(2, labels.size, DIM.value)).astype(np.float32)
        teacher = centres[labels] + 0.5 * noise[0]
        ids = rng.integers(0, 2**31 - 1, labels.size, np.int32)
        yield tuple(map(tf.constant, (teacher + noise[1], teacher, labels, ids)))


def step(loss):
    """Returns a traced function of a batch to the loss's gradient."""

    @tf.function
    def run(student, *others):
        with tf.GradientTape() as tape:
            tape.watch(student)
            total = tf.add_n(list(loss(student, *others).values()))
        return tape.gradient(total, student)

    return run


def main(argv):
    if argv[1:]:
        sys.exit(f"Every argument must be --FLAG=VALUE. Received: {argv[1:]}")
    # It takes one function for each loss for one function traced again and again.
    tf.get_logger().setLevel("ERROR")
    tf.config.threading.set_intra_op_parallelism_threads(THREADS.value)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(IDENTITIES.value, DIM.value)).astype(np.float32)
    head = ArcFace(num_identities=IDENTITIES.value)
    head.build((None, DIM.value))
    cases = {}
    for spec in LOSS.value:
        ((loss, _),) = make_losses(
            spec,
            lambda: centres,
            student_dim=DIM.value,
            teacher_dim=DIM.value,
            num_identities=IDENTITIES.value,
            head=head,
            scale=16.0,
        ).values()
        run, own = step(loss), batches(centres)
        cases[spec] = lambda run=run, own=own: measuring.clocked(run, *next(own))
    times = measuring.take_turns(cases, TURNS.value, WARM_UP)
    rows = [[spec, measuring.spread(both[:, 1])] for spec, both in times.items()]
    print(format_table(rows, ["loss", "CPU ms"]))


if __name__ == "__main__":
    app.run(main)
