"""A step on any number of replicas is the step of one on the whole batch."""

import collections
import functools

import numpy as np
import pytest
import replicas
import tensorflow as tf
from eager import op_by_op
from toys import batch

from ekd_tf.keras_compat import tf_variable
from ekd_tf.training.loop import compile_step
from ekd_tf.training.strategy import distribute

# Largest differences allowed of weights' updates, as a share of each variable's, and
# of logged terms, relative. Half precision rounds each replica's sum of a gradient
# before they are added, to 2^-9 and 2^-12, and two steps later more of it shows.
ALLOWED = {
    "float32": {"update": 1e-5, "logged": 1e-5, "threshold": 1e-5},
    "mixed_bfloat16": {"update": 1e-1, "logged": 3e-2, "threshold": 1e-2},
    "mixed_float16": {"update": 2e-2, "logged": 5e-3, "threshold": 1e-3},
}


def check(expected, received, precision, loss="two"):
    worst = replicas.differences(expected, received)
    if precision != "float32" and loss == "ekd":
        # Of the few negatives that a threshold's gradient reaches rounding exchanges
        # some for others, which the norm of the gradient shows too: "detached" is the
        # loss without it.
        del worst["update"], worst["logged"]
    # A cosine that rounding moves may pass a threshold.
    assert worst.pop("count") <= (0 if precision == "float32" else 2)
    for name, difference in worst.items():
        assert difference <= ALLOWED[precision][name], (loss, name, difference)


def run_alone(**arguments):
    """Runs on one device, which need not be traced."""
    with op_by_op():
        return replicas.run(tf.distribute.get_strategy(), **arguments)


def test_two_replicas_with_frozen_norms(two_replicas):
    received = replicas.run(two_replicas, loss="two")
    check(run_alone(loss="two"), received, "float32")
    # The comparison is of something: terms, thresholds and pairs are there.
    for term in ("margin", "ekd/positive", "ekd/negative", "cosine/gap"):
        assert received[f"logged/loss/{term}"].min() > 0
    assert received["logged/gradient_ratio/cosine"][0] == pytest.approx(0.3)
    assert received["logged/weight/cosine"].min() > 0
    assert received["logged/critical/positive"].min() > 0
    assert received["logged/pairs/rows"].tolist() == [16, 16]
    assert np.all(received["logged/threshold/student/fpr_1e-1"] != 0)


def test_training_norms_see_the_rows_of_their_replica(two_replicas):
    arguments = {"loss": "margin", "norm": "training"}
    received = replicas.run(two_replicas, **arguments)
    in_parts = run_alone(parts=2, **arguments)
    check(in_parts, received, "float32")
    # Else the comparison would show nothing.
    whole = run_alone(**arguments)
    assert replicas.differences(whole, in_parts)["logged"] > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("place", replicas.PLACES)
def test_every_place_precision_and_loss(place, runs):
    received = runs(place)
    for case, result in received.items():
        if case == "training":
            check(runs(f"1 in {place[0]}")[case], result, "float32")
        else:
            check(runs("1")[case], result, *case.split("/"))
    assert len(received) == len(replicas.cases()) - ("XLA" in place)


@pytest.fixture(scope="module")
def runs():
    return functools.lru_cache(replicas.runs_of)


def test_only_embeddings_labels_and_ids_cross_replicas(rng, two_replicas, monkeypatch):
    carried = collections.defaultdict(collections.Counter)

    def spy(name):
        real = getattr(tf.distribute.ReplicaContext, name)

        def call(context, *args, **kwargs):
            for value in tf.nest.flatten([args, kwargs]):
                if tf.is_tensor(value):
                    carried[name][(value.dtype.name, tuple(value.shape))] += 1
            return real(context, *args, **kwargs)

        monkeypatch.setattr(tf.distribute.ReplicaContext, name, call)

    with two_replicas.scope():
        model = replicas.make("two")
    spy("all_gather")
    spy("all_reduce")
    dataset = tf.data.Dataset.from_tensors(batch(rng, rows=16))
    rows = next(iter(distribute(two_replicas, dataset)))
    step = compile_step(model, two_replicas).get_concrete_function(rows)

    # Each of two replicas has 8 rows and embeddings of 8 numbers. It sends the
    # student's and the teacher's, labels and image ids, and (TensorFlow, for the
    # backward pass of each of two losses) its number of rows;
    assert carried["all_gather"] == {
        ("float32", (8, 8)): 4,
        ("int32", (8,)): 4,
        ("int32", (1,)): 4,
    }
    # receives each loss's gradient of the student's gathered embeddings; sums the
    # number of margin rows, the four loss terms with the square norms of three losses'
    # gradients, the unit embeddings (8 numbers, for their mean cosine) and the weights'
    # gradients.
    shapes = [(16, 8)] * 4 + [(), (7,), (8,)] * 2
    shapes += [tuple(tf_variable(v).shape) for v in model.trained_variables] * 2
    expected = collections.Counter(("float32", shape) for shape in shapes)
    assert carried["all_reduce"] == expected

    # TensorFlow's own collectives carry no more: no pixels, no similarities. (Integers
    # go by plain copies.)
    weights = sum(int(np.prod(v.shape)) for v in model.trained_variables)
    for operation in step.graph.get_operations():
        if operation.type.startswith("Collective"):
            shape = operation.inputs[0].shape
            if shape.is_fully_defined():
                assert shape.num_elements() in {1, 2, 7, 8, 16 * 8, weights}
