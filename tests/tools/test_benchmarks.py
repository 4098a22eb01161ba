"""What a step must not hold and not send, and that the benchmarks would find it."""

import importlib
import inspect
import math
import re

import pytest
import toys
from absl.flags import FLAGS
from refusals import refused

# Benchmarks run at night: nobody trains with them.
pytestmark = pytest.mark.slow


def load(name):
    """Imports a benchmark without its flags: two may define one of the same name."""
    module = importlib.import_module(name)
    for flag in re.findall(r'DEFINE_\w+\(\s*"(\w+)"', inspect.getsource(module)):
        delattr(FLAGS, flag)
    return module


def test_a_sampled_step_holds_nothing_as_large_as_all_classes():
    tool, identities, dim, batch = load("bench_head"), 977, 24, 8

    def traced(rate, optimizer="sgd"):
        """Returns a step, and how many tensors of a kind are as wide as all classes."""
        step, rows = tool.make_step(identities, rate, dim, batch, optimizer)
        concrete = step.get_concrete_function(rows)
        return concrete, tool.wide_tensors(concrete, identities, batch, dim)

    concrete, counts = traced(rate=0.1)
    kinds = "one_hot", "batch_by_classes", "classes_by_dim", "unknown"
    assert counts == dict.fromkeys(kinds, 0)
    assert not tool.violations(counts, 0.1)
    # Logits and gradients of the 98 sampled classes are there.
    shapes = [shape for _, shape in tool.tensors(concrete)]
    assert [batch, 98] in shapes and [98, dim] in shapes
    # One over all classes holds logits and no one-hot rows.
    _, counts = traced(rate=1.0)
    assert counts["one_hot"] == 0
    assert counts["batch_by_classes"] > 1 and counts["classes_by_dim"] > 5
    assert not tool.violations(counts, 1.0)
    assert tool.violations(counts, 0.1) == ["batch_by_classes", "classes_by_dim"]
    # A dense update of a sampled head.
    _, counts = traced(rate=0.1, optimizer="adam")
    assert tool.violations(counts, 0.1) == ["classes_by_dim"]


def test_counts_of_what_crosses_replicas_are_those_of_the_formula(two_replicas):
    tool = load("bench_scaling")
    with two_replicas.scope():
        student = toys.backbone(dim=8)
        model = tool.make_model(student, identities=30, rate=0.5)
    batch = tool.make_batch(16, identities=30, size=toys.SIZE, dim=8)
    _, _, calls = tool.traced(model, two_replicas, batch)
    parameters = sum(math.prod(v.shape) for v in student.trainable_variables)
    # 30 identities at rate 0.5, but 16 rows may be of 16 identities.
    sizes = tool.Sizes(2, batch=8, dim=8, student=parameters, classes=16, sampled=True)
    counted = tool.bytes_by_kind(calls, 8, 2, 8)
    # By hand: 8 rows of 8 float32 of two models; labels for EKD and for the sampled
    # head, and image ids.
    assert counted["embeddings"] == 512
    assert counted["labels and image ids"] == 3 * 8 * 4
    assert counted["gradients of embeddings"] == 512
    assert counted["gradients of the head"] == 16 * 8 * 4
    assert counted == tool.computed(sizes)
    # Similarities and images must not cross.
    for call in (
        ("all_reduce", "float32", (16, 16), None),
        ("all_gather", "float32", (8, 16), None),
        ("all_gather", "uint8", (8, 112, 112, 3), None),
        ("all_reduce", "float32", (16 * 16,), None),
    ):
        words = "A step must not send this"
        refused(words, tool.bytes_by_kind, [call], rows=8, replicas=2, dim=12)
    # Of 4 replicas each passes on the parts of 3; a sum goes round twice by quarters.
    assert tool.sent("embeddings", 100, 4) == 300
    assert tool.sent("gradients of the student", 100, 4) == 150
