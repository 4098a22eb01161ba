"""Times reading, decoding, flipping and batching from every source.

The floor is `tf.io.decode_jpeg` alone, mapped in parallel over bytes that are already
in memory, its images thrown away. Cases take turns, since a busy machine still tells
ratios; CPU time per image is what a machine with other work can compare. Starting an
iterator is not timed.

    python tools/benchmarks/bench_input.py --data=folder:faces --data=recordio:faces_rec
    python tools/benchmarks/bench_input.py --records=5800000

The second measures what the index arrays of a source of that many records take.
"""

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from absl import app
from absl import flags
from resident import resident_mb

from ekd_tf.data import BatchSampler
from ekd_tf.data import make_pipeline
from ekd_tf.data.source import Source
from ekd_tf.run import factory

DATA = flags.DEFINE_multi_string("data", [], "A source as --data of ekd_tf.train.")
SIZE = flags.DEFINE_integer("input_size", 112, "Side of the images in pixels.", 1)
GENERAL = flags.DEFINE_integer("general_batch", 256, "General rows of a batch.", 1)
IDENTITIES = flags.DEFINE_integer("balanced_identities", 32, "Balanced ones.", 0)
BATCHES = flags.DEFINE_integer("batches", 8, "Batches of a turn.", 2)
TURNS = flags.DEFINE_integer("turns", 5, "Turns of each case.", 1)
RECORDS = flags.DEFINE_integer("records", 0, "Measure memory for this many records.", 0)


WARM_UP = 4


class InMemory(Source):
    """The encoded images of a source, read once."""

    def __init__(self, source):
        self.name = "memory"
        self.labels = source.labels
        self.num_identities = source.num_identities
        self.images = source.read(np.arange(len(source)))

    @property
    def fingerprint(self):
        return self.name

    def read(self, indices):
        return [self.images[i] for i in indices]

    def describe(self, index):
        return f"image {index} in memory"


def floor(images, rows):
    """Returns a dataset that decodes `rows` images for each element it gives."""

    def decode(data):
        return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")

    dataset = tf.data.Dataset.from_tensor_slices(images).repeat()
    dataset = dataset.map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.shard(rows, rows - 1)


def pipeline_of(source):
    """Returns the training pipeline's dataset."""
    sampler = BatchSampler(source.labels, GENERAL.value, IDENTITIES.value, 4)
    return make_pipeline(source, sampler, SIZE.value).dataset


def timed(dataset, rows):
    """Returns `(CPU, wall)` microseconds per image."""
    iterator = iter(dataset)
    # As many batches are made ahead when the clock starts as when it stops.
    for _ in range(WARM_UP):
        next(iterator)
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(BATCHES.value):
        next(iterator)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    count = rows * BATCHES.value
    return 1e6 * cpu / count, 1e6 * wall / count


def print_memory(records):
    """Prints what a sampler over generated labels holds, one epoch begun."""
    labels = np.sort(np.arange(records, dtype=np.int32) % max(1, records // 68))
    before = resident_mb()
    sampler = BatchSampler(labels, GENERAL.value, IDENTITIES.value, 4)
    start = time.perf_counter()
    for step in range(50):
        sampler.batch(step)
    seconds = time.perf_counter() - start
    print(
        f"{records:,} records: labels {labels.nbytes / 1e6:.0f} MB, sampler "
        f"{resident_mb() - before:.0f} MB, 50 batches {seconds:.2f} s"
    )


def main(_):
    if RECORDS.value:
        print_memory(RECORDS.value)
    if not DATA.value:
        return
    sources = {spec: factory.make_source(spec) for spec in DATA.value}
    memory = InMemory(next(iter(sources.values())))
    rows = GENERAL.value + 4 * IDENTITIES.value
    cases = {
        "decode_jpeg alone": floor(memory.images, rows),
        "memory": pipeline_of(memory),
        **{spec: pipeline_of(source) for spec, source in sources.items()},
    }
    times = {name: [] for name in cases}
    for turn in range(TURNS.value + 1):
        for name, dataset in cases.items():
            seen = timed(dataset, rows)
            # The first turn fills the file cache.
            if turn:
                times[name].append(seen)
    load = os.getloadavg()[0]
    print(f"load {load:.1f}, {os.cpu_count()} cores, {rows} images a batch")
    print("| case | CPU us / image | wall us / image | floor / case, CPU | wall |")
    print("|---|---|---|---|---|")
    base = np.array(times["decode_jpeg alone"])
    for name, seen in times.items():
        seen = np.array(seen)
        cpu, wall = np.median(base / seen, axis=0)
        middle = np.median(seen, axis=0)
        print(
            f"| {name} | {middle[0]:.0f} | {middle[1]:.0f} | {cpu:.2f} | {wall:.2f} |"
        )


if __name__ == "__main__":
    app.run(main)
