"""What a step over sampled classes must not hold, and that the search would find it."""

import pytest

TOOL = "bench_head"

# Benchmarks run at night: nobody trains with them.
pytestmark = pytest.mark.slow

# A number that no other size in the step is.
IDENTITIES, DIM, BATCH = 977, 24, 8


def traced(tool, rate, optimizer="sgd"):
    """Returns a step, and how many tensors of a kind it has as wide as all classes."""
    step, rows = tool.make_step(IDENTITIES, rate, DIM, BATCH, optimizer)
    concrete = step.get_concrete_function(rows)
    return concrete, tool.wide_tensors(concrete, IDENTITIES, BATCH, DIM)


def test_a_sampled_step_holds_nothing_as_large_as_all_classes(tool):
    concrete, counts = traced(tool, rate=0.1)
    kinds = "one_hot", "batch_by_classes", "classes_by_dim", "unknown"
    assert counts == dict.fromkeys(kinds, 0)
    assert not tool.violations(counts, 0.1)
    # Logits and gradients of the 98 sampled classes are there.
    shapes = [shape for _, shape in tool.tensors(concrete)]
    assert [BATCH, 98] in shapes and [98, DIM] in shapes


def test_a_step_over_all_classes_holds_logits_and_no_one_hot(tool):
    _, counts = traced(tool, rate=1.0)
    assert counts["one_hot"] == 0
    assert counts["batch_by_classes"] > 1 and counts["classes_by_dim"] > 5
    assert not tool.violations(counts, 1.0)
    assert tool.violations(counts, 0.1) == ["batch_by_classes", "classes_by_dim"]
    # A dense update of a sampled head.
    _, counts = traced(tool, rate=0.1, optimizer="adam")
    assert tool.violations(counts, 0.1) == ["classes_by_dim"]
