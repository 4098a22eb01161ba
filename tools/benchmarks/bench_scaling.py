"""Counts what a distillation step sends between replicas, and times it on one machine.

Every tensor that a replica hands to another while the step is traced is noted where it
is handed over (`tf.distribute.ReplicaContext`), and each must be one of `KINDS`: a
matrix of rows x rows, an image or anything unheard of ends the benchmark. The counts
must also be those of the formula, from which the table for GPUs is computed.

One process can gather over one number of replicas only, so each number has its own.

    python tools/benchmarks/bench_scaling.py --json=bench_scaling.json
"""

import collections
import dataclasses
import math
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import measuring
from absl import app
from absl import flags

from ekd_tf.evaluation import format_table
from ekd_tf.run.quiet import use_onednn

REPLICAS = flags.DEFINE_list("replicas", ["1", "2", "4"], "Virtual replicas to run.")
BATCH = flags.DEFINE_integer("batch", 32, "Rows of the global batch measured.", 8)
IDENTITIES = flags.DEFINE_integer("identities", 5000, "Of the head measured.", 2)
RATE = flags.DEFINE_float("rate", 1.0, "Sample rate of the head measured.")
STEPS = flags.DEFINE_integer("steps", 8, "Steps timed, after two that are not.", 1)
JSON = flags.DEFINE_string("json", None, "File to write all measurements to.")
MEASURE = flags.DEFINE_integer("measure", None, "Internal: replicas to measure here.")

KINDS = (
    "embeddings",
    "labels and image ids",
    "numbers of rows",
    "gradients of embeddings",
    "gradients of the student",
    "gradients of the head",
    "scalars and the mean embedding",
)
# What a replica gives is gathered, or added up.
GATHERED = KINDS[:3]
# Terms and norms of a step with margin loss and EKD: the sum of margin rows, three
# loss terms and two norms.
NUM_SCALARS = 6


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the volume of a step depends on."""

    replicas: int
    # Rows of one replica.
    batch: int
    dim: int
    # Trained parameters of the student.
    student: int
    # In the softmax of a step: all, or those sampled, for which labels are gathered
    # once more.
    classes: int
    sampled: bool = False


def computed(sizes):
    """Returns the bytes one replica contributes to a step, by kind."""
    rows = sizes.batch
    volumes = [
        # The student's and the teacher's, float32.
        2 * rows * sizes.dim * 4,
        (3 if sizes.sampled else 2) * rows * 4,
        # TensorFlow, for the backward pass of EKD's gathering.
        4,
        # Of all rows of all replicas, of EKD alone.
        sizes.replicas * rows * sizes.dim * 4,
        sizes.student * 4,
        sizes.classes * sizes.dim * 4,
        (NUM_SCALARS + sizes.dim) * 4,
    ]
    return dict(zip(KINDS, volumes))


def sent(kind, size, replicas):
    """Returns the bytes a replica sends of a contribution, by a ring of replicas.

    Gathering passes on every other replica's part; a sum goes round twice, a part of
    1 / replicas at a time.
    """
    if kind in GATHERED:
        return (replicas - 1) * size
    return 2 * (replicas - 1) / replicas * size


def kind_of(call, dtype, shape, place, rows, replicas, dim):
    """Returns what a tensor handed to other replicas is, or raises `ValueError`.

    `place` is None, or for the gradients of variables "student" or "head"; `rows` are
    those of one replica.
    """
    if place is not None:
        return f"gradients of the {place}"
    known = {
        ("all_gather", "float32", (rows, dim)): "embeddings",
        ("all_gather", "int32", (rows,)): "labels and image ids",
        ("all_gather", "int32", (1,)): "numbers of rows",
        ("all_reduce", "float32", (replicas * rows, dim)): "gradients of embeddings",
    }
    if call == "all_reduce" and dtype == "float32" and len(shape) < 2:
        if math.prod(shape) <= max(dim, NUM_SCALARS):
            return "scalars and the mean embedding"
    if (call, dtype, shape) not in known:
        raise ValueError(
            f"A step must not send this: {call} of {dtype} {shape} on {replicas} "
            f"replicas of {rows} rows"
        )
    return known[call, dtype, shape]


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


def traced(model, strategy, batch):
    """Traces a step and notes what its replicas hand to each other.

    Returns:
        `(step, batches, calls)`: the compiled step, an iterator of batches for it, and
        a list of `(call, dtype, shape, place)`, what a single replica has handed over,
        for `kind_of`.
    """
    import tensorflow as tf

    from ekd_tf.training.loop import compile_step
    from ekd_tf.training.strategy import distribute

    places = [
        name
        for name, layer in model.trained_layers.items()
        for _ in layer.trainable_variables
    ]
    noted = collections.defaultdict(list)
    context_class = tf.distribute.ReplicaContext
    real = {name: getattr(context_class, name) for name in ("all_gather", "all_reduce")}

    def spy(name):
        def call(context, *args, **kwargs):
            replica = int(tf.get_static_value(context.replica_id_in_sync_group))
            for value in (*args, *kwargs.values()):
                tensors = list(value) if isinstance(value, (list, tuple)) else [value]
                # Variables' gradients come all at once.
                all_at_once = len(tensors) == len(places)
                of = places if all_at_once else [None] * len(tensors)
                for tensor, place in zip(tensors, of):
                    if tf.is_tensor(tensor):
                        shape = tuple(tensor.shape)
                        noted[replica].append((name, tensor.dtype.name, shape, place))
            return real[name](context, *args, **kwargs)

        return call

    dataset = tf.data.Dataset.from_tensors(batch).repeat()
    batches = iter(distribute(strategy, dataset))
    step = compile_step(model, strategy)
    try:
        for name in real:
            setattr(context_class, name, spy(name))
        step.get_concrete_function(next(batches))
    finally:
        for name, method in real.items():
            setattr(context_class, name, method)
    calls_of_one, *others = noted.values()
    if any(sorted(o, key=str) != sorted(calls_of_one, key=str) for o in others):
        raise ValueError("Replicas hand over different tensors.")
    return step, batches, calls_of_one


def bytes_by_kind(calls, rows, replicas, dim):
    """Adds up the bytes of the tensors of `traced` by kind; see `kind_of`."""
    total = dict.fromkeys(KINDS, 0)
    for call, dtype, shape, place in calls:
        kind = kind_of(call, dtype, shape, place, rows, replicas, dim)
        total[kind] += 4 * math.prod(shape)
    return total


def measure(replicas):
    """Tells what a step on so many replicas here sends and takes."""
    import tensorflow as tf

    from ekd_tf.heads import num_sampled
    from ekd_tf.models import MobileFaceNet
    from ekd_tf.training.strategy import make_strategy
    from ekd_tf.training.strategy import set_virtual_devices

    set_virtual_devices(replicas)
    strategy = make_strategy("none" if replicas == 1 else "mirrored")
    with strategy.scope():
        student = MobileFaceNet()
        model = make_model(student, IDENTITIES.value, RATE.value)
    dim, size = student.output_shape[-1], student.input_shape[1]
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
    times = [
        measuring.clocked(lambda: float(step(next(batches))["loss"]))
        for _ in range(STEPS.value + 2)
    ]
    wall, cpu = ([round(ms, 1) for ms in each[2:]] for each in zip(*times))
    measuring.tell(
        {
            "sizes": dataclasses.asdict(sizes),
            "bytes": volume,
            "milliseconds": wall,
            "cpu_milliseconds": cpu,
        }
    )


def volume_table(columns):
    """Returns bytes a replica contributes, and sends by a ring, for several `Sizes`."""
    volumes = [computed(sizes) for sizes in columns]

    def ring(kinds):
        for sizes, volume in zip(columns, volumes):
            total = sum(sent(kind, volume[kind], sizes.replicas) for kind in kinds)
            yield f"{total / 2**20:,.1f}"

    pairs = [(s.replicas * s.batch) ** 2 * 4 / 2**20 for s in columns]
    without = [kind for kind in KINDS if "head" not in kind]
    rows = [
        *([kind, *(f"{v[kind]:,}" for v in volumes)] for kind in KINDS),
        ["sent by a ring, MB", *ring(KINDS)],
        ["the same without the head, MB", *ring(without)],
        ["never sent: all cosines, MB", *(f"{mb:,.1f}" for mb in pairs)],
    ]
    header = ["a replica's part, bytes", *(f"{s.replicas} replicas" for s in columns)]
    return format_table(rows, header)


def main(_):
    use_onednn()
    if MEASURE.value:
        measure(MEASURE.value)
        return
    results = [measuring.apart(f"--measure={replicas}") for replicas in REPLICAS.value]
    print(
        f"MobileFaceNet, global batch {BATCH.value}, {IDENTITIES.value:,} identities "
        f"at rate {RATE.value:g}; load {os.getloadavg()[0]:.1f}. Counted:\n"
    )
    rows = [[kind, *(f"{r['bytes'][kind]:,}" for r in results)] for kind in KINDS]
    for name in ("milliseconds", "cpu_milliseconds"):
        rows.append(
            [f"{name} a step", *(measuring.spread(r[name], 0) for r in results)]
        )
    header = [f"{r['sizes']['replicas']} replicas" for r in results]
    print(format_table(rows, ["a replica's part, bytes", *header]))
    print(
        "\nComputed for the paper's student (1,199,488 parameters) and MS1MV2's 85,742 "
        "identities, 128 rows a replica; the last two columns at sample rate 0.1:\n"
    )
    paper = {"batch": 128, "dim": 512, "student": 1_199_488}
    columns = [Sizes(n, classes=85_742, **paper) for n in (8, 64)]
    columns += [Sizes(n, classes=8_575, sampled=True, **paper) for n in (8, 64)]
    print(volume_table(columns))
    measuring.write_json(JSON.value, measuring.machine(), results)


if __name__ == "__main__":
    app.run(main)
