import numpy as np
import tensorflow as tf
from toys import two_models
from toys import value_and_gradient

from ekd_tf.losses import RKDLoss
from ekd_tf.losses import TripletDistillationLoss
from ekd_tf.losses.triples import huber
from ekd_tf.ops import blocks


def rkd_angle(student, teacher):
    return RKDLoss(distance_weight=0, angle_weight=1)(student, teacher)["rkd/angle"]


def test_huber_computed_by_hand():
    # 1/2 * 4 up to 2; beyond, 2 (3 - 1).
    np.testing.assert_allclose(huber(tf.constant([0.0, -2.0, 3.0]), 2.0), [0, 2, 4])


def test_blocks_give_what_all_at_once_do(rng, monkeypatch):
    student, teacher, labels = two_models(rng, 7)
    triplets = TripletDistillationLoss()
    for function in (rkd_angle, lambda s, t: sum(triplets(s, t, labels).values())):
        expected = value_and_gradient(function)(student, teacher)
        # Two rows at a time: the last block is half empty.
        monkeypatch.setattr(blocks, "MAX_ENTRIES", 2 * 49)
        step = tf.function(value_and_gradient(function))
        value, gradient = step(tf.constant(student), tf.constant(teacher))
        np.testing.assert_allclose(value, expected[0], rtol=1e-5)
        np.testing.assert_allclose(gradient, expected[1], rtol=1e-4, atol=1e-7)
        monkeypatch.undo()


def test_coinciding_rows_have_a_gradient_of_ordinary_size(rng):
    # The reference implementation's is 4e11 here.
    student, teacher, _ = two_models(rng, 12, 4, 32, 32)
    step = value_and_gradient(rkd_angle)
    ordinary = np.abs(step(student, teacher)[1]).max()
    for nudge in (0.0, 1e-7, 1e-5, 1e-3):
        student[1] = student[0] * (1 + nudge)
        assert np.abs(step(student, teacher)[1]).max() < 200 * ordinary


def test_no_tensor_of_all_angles_is_made():
    # 512^3 would be 134 million.
    specs = [tf.TensorSpec((512, 512))] * 2
    step = tf.function(value_and_gradient(rkd_angle)).get_concrete_function(*specs)
    largest, waiting = 0, [step.graph]
    while waiting:
        graph = waiting.pop()
        for operation in graph.get_operations():
            sizes = [output.shape.num_elements() or 0 for output in operation.outputs]
            largest = max([largest, *sizes])
            for key in {"body", "cond", "f"} & set(operation.node_def.attr):
                waiting.append(graph._functions[operation.get_attr(key).name].graph)
    assert 512**2 <= largest <= blocks.MAX_ENTRIES
