"""What crosses replicas is counted by kind, and what must not cross is refused."""

import math

import pytest
import toys

TOOL = "bench_scaling"

# Benchmarks run at night: nobody trains with them.
pytestmark = pytest.mark.slow


def test_counts_of_a_traced_step_are_those_of_the_formula(tool, two_replicas):
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


def test_similarities_and_images_must_not_cross(tool):
    for call in (
        ("all_reduce", "float32", (16, 16), None),
        ("all_gather", "float32", (8, 16), None),
        ("all_gather", "uint8", (8, 112, 112, 3), None),
        ("all_reduce", "float32", (16 * 16,), None),
    ):
        with pytest.raises(ValueError, match="A step must not send this"):
            tool.bytes_by_kind([call], rows=8, replicas=2, dim=12)


def test_volume_by_a_ring_computed_by_hand(tool):
    # Of 4 replicas each passes on the parts of 3; a sum goes round twice by quarters.
    assert tool.sent("embeddings", 100, 4) == 300
    assert tool.sent("gradients of the student", 100, 4) == 150
