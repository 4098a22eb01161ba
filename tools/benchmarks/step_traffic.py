"""What a distillation step sends between replicas: by formula, and as it is traced.

Every tensor that a replica hands to another while a step is traced is noted where it is
handed over (`tf.distribute.ReplicaContext`, below `ekd_tf.ops.collective` and
`GradientUpdate` alike), and each must be one of `KINDS`: a matrix of rows x rows, an
image or anything unheard of is refused.

TensorFlow is imported where a step is traced alone: a process that prints tables does
without.
"""

import collections
import dataclasses
import math

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
    """What the volume of a step depends on.

    Attributes:
        replicas: Int, all that take part.
        batch: Int, rows of one replica.
        dim: Int, of student's and teacher's embeddings.
        student: Int, trained parameters of the student.
        classes: Int, in the softmax of a step: all, or those sampled.
        sampled: Whether they are sampled, for which labels are gathered once more.
    """

    replicas: int
    batch: int
    dim: int
    student: int
    classes: int
    sampled: bool = False


def computed(sizes):
    """Returns the bytes one replica contributes to a step, by kind."""
    rows = sizes.batch
    return dict(
        zip(
            KINDS,
            [
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
            ],
        )
    )


def sent(kind, size, replicas):
    """Returns the bytes a replica sends of a contribution, by a ring of replicas.

    Gathering passes on every other replica's part; a sum goes round twice, a part of
    1 / replicas at a time.
    """
    if kind in GATHERED:
        return (replicas - 1) * size
    return 2 * (replicas - 1) / replicas * size


def kind_of(call, dtype, shape, place, rows, replicas, dim):
    """Returns what a tensor handed to other replicas is.

    Args:
        call: "all_gather" or "all_reduce".
        dtype: Name of its type.
        shape: Tuple of ints.
        place: None, or for a list of gradients "student" or "head".
        rows: Int, of a replica's batch.
        replicas: Int.
        dim: Int, embedding size.

    Raises:
        ValueError: It is nothing a step may send.
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


def traced(model, strategy, batch):
    """Traces a step and notes what its replicas hand to each other.

    Args:
        model: A compiled `Distiller`, made in the strategy's scope.
        strategy: `tf.distribute.Strategy`.
        batch: A global batch, dict of tensors.

    Returns:
        `(step, batches, calls)`: the compiled step, an iterator of batches for it, and
        a list of `(call, dtype, shape, place)`, what a single replica has handed over,
        to be given to `kind_of`.
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
            values = [v for v in [*args, *kwargs.values()] if is_tensor_or_list(v)]
            for value in values:
                tensors = list(value) if is_list(value) else [value]
                # Variables' gradients come all at once.
                all_at_once = len(tensors) == len(places)
                of = places if all_at_once else [None] * len(tensors)
                for tensor, place in zip(tensors, of):
                    shape = tuple(tensor.shape)
                    noted[replica].append((name, tensor.dtype.name, shape, place))
            return real[name](context, *args, **kwargs)

        return call

    def is_list(value):
        return isinstance(value, (list, tuple))

    def is_tensor_or_list(value):
        return tf.is_tensor(value) or is_list(value)

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
    # Of a worker, replica 0 may be another one's.
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


def largest_collective(step, batches):
    """Returns the most numbers a collective operation of the graph is given."""
    graph = step.get_concrete_function(next(batches)).graph
    sizes = [0]
    for operation in graph.get_operations():
        if operation.type.startswith("Collective"):
            shape = operation.inputs[0].shape
            sizes.append(shape.num_elements() or 0)
    return max(sizes)
