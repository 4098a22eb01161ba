"""Times reading, decoding, flipping and batching from every source.

The floor is `tf.io.decode_jpeg` alone, mapped in parallel over bytes that are already
in memory, its images thrown away. Starting an iterator is not timed.

    python tools/benchmarks/bench_input.py --data=folder:faces --data=recordio:faces_rec
    python tools/benchmarks/bench_input.py --records=5800000

The second measures what the index arrays of a source of that many records take.
"""

import functools
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import measuring
import numpy as np
import tensorflow as tf
from absl import app
from absl import flags

from ekd_tf.data import BatchSampler
from ekd_tf.data import make_pipeline
from ekd_tf.data.pairs import PairImages
from ekd_tf.run import factory

DATA = flags.DEFINE_multi_string("data", [], "A source as --data of ekd_tf.train.")
SIZE = flags.DEFINE_integer("input_size", 112, "Side of the images in pixels.", 1)
GENERAL = flags.DEFINE_integer("general_batch", 256, "General rows of a batch.", 1)
IDENTITIES = flags.DEFINE_integer("balanced_identities", 32, "Balanced ones.", 0)
BATCHES = flags.DEFINE_integer("batches", 8, "Batches of a turn.", 2)
TURNS = flags.DEFINE_integer("turns", 5, "Turns of each case.", 1)
RECORDS = flags.DEFINE_integer("records", 0, "Measure memory for this many records.", 0)


WARM_UP = 4


def in_memory(source):
    """Returns the encoded images of a source, read once, as a source."""
    images = source.read(np.arange(len(source)))
    memory = PairImages("memory", images)
    memory.labels, memory.num_identities = source.labels, source.num_identities
    return memory, images


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


def timed(dataset):
    """Returns milliseconds of a turn's batches, by the clock and of CPU."""
    iterator = iter(dataset)

    def advance(batches):
        for _ in range(batches):
            next(iterator)

    # As many batches are made ahead when the clock starts as when it stops.
    advance(WARM_UP)
    return measuring.clocked(advance, BATCHES.value)


def print_memory(records):
    """Prints what a sampler over generated labels holds, one epoch begun."""
    labels = np.sort(np.arange(records, dtype=np.int32) % max(1, records // 68))
    before = measuring.resident_mb()
    sampler = BatchSampler(labels, GENERAL.value, IDENTITIES.value, 4)
    start = time.perf_counter()
    for step in range(50):
        sampler.batch(step)
    seconds = time.perf_counter() - start
    print(
        f"{records:,} records: labels {labels.nbytes / 1e6:.0f} MB, sampler "
        f"{measuring.resident_mb() - before:.0f} MB, 50 batches {seconds:.2f} s"
    )


def main(_):
    if RECORDS.value:
        print_memory(RECORDS.value)
    if not DATA.value:
        return
    sources = {spec: factory.make_source(spec) for spec in DATA.value}
    memory, images = in_memory(next(iter(sources.values())))
    rows = GENERAL.value + 4 * IDENTITIES.value
    datasets = {
        "decode_jpeg alone": floor(images, rows),
        "memory": pipeline_of(memory),
        **{spec: pipeline_of(source) for spec, source in sources.items()},
    }
    cases = {name: functools.partial(timed, each) for name, each in datasets.items()}
    # The first turn fills the file cache.
    times = measuring.take_turns(cases, TURNS.value)
    load = os.getloadavg()[0]
    print(f"load {load:.1f}, {os.cpu_count()} cores, {rows} images a batch")
    print(measuring.beside_first(times, rows * BATCHES.value))


if __name__ == "__main__":
    app.run(main)
