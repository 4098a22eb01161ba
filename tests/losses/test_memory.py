import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.losses.base import DistillationLoss
from ekd_tf.losses.memory import EmbeddingMemory


def memory_of(rows, student_dim=2, teacher_dim=3):
    return EmbeddingMemory(DistillationLoss(), rows, student_dim, teacher_dim)


def batch_of(rng, rows, first_image=0):
    return (
        np.float32(rng.normal(size=(rows, 2))),
        np.float32(rng.normal(size=(rows, 3))),
        rng.integers(0, 9, rows).astype(np.int32),
        np.arange(first_image, first_image + rows, dtype=np.int32),
    )


def arrays(*values):
    return [np.array(value) for value in values]


def test_an_empty_memory_has_no_rows(rng):
    memory = memory_of(2).beside(batch_of(rng, 3)[3])
    assert memory.student.shape == (2, 2) and memory.teacher.shape == (2, 3)
    np.testing.assert_array_equal(memory.labels, [-1, -1])


@pytest.mark.parametrize("rows", [2, 5, 7])
def test_the_newest_rows_stay(rng, run_as, rows):
    memory = memory_of(5)
    first, second = batch_of(rng, rows), batch_of(rng, rows, first_image=50)
    push = run_as(lambda *x: memory.push(*x, tf.constant(True)) or tf.constant(0))
    for batch in (first, second):
        push(*map(tf.constant, batch))
    newest = [np.concatenate([b, a])[:5] for a, b in zip(first, second)]
    kept = memory.student, memory.teacher, memory.labels, memory.image_ids
    for value, expected in zip(arrays(*kept), newest):
        np.testing.assert_array_equal(value[: len(expected)], expected)


def test_what_does_not_count_is_not_kept(rng):
    memory = memory_of(4)
    memory.push(*batch_of(rng, 3), tf.constant(True))
    before = np.array(memory.student)
    memory.push(*batch_of(rng, 3), tf.constant(False))
    np.testing.assert_array_equal(np.array(memory.student), before)


def test_an_image_of_the_batch_is_left_out(rng):
    memory = memory_of(4)
    memory.push(*batch_of(rng, 4, first_image=7), tf.constant(True))
    expected = np.array(memory.labels)
    expected[2] = -1
    beside = memory.beside(np.int32([9, 3]))
    np.testing.assert_array_equal(beside.labels, expected)
    np.testing.assert_array_equal(beside.image_ids, [7, 8, 9, 10])


def test_without_image_ids_nothing_is_left_out(rng):
    memory = memory_of(4)
    student, teacher, labels, _ = batch_of(rng, 4)
    memory.push(student, teacher, labels, None, tf.constant(True))
    np.testing.assert_array_equal(memory.beside().labels, labels)
    beside = memory.beside(np.arange(4, dtype=np.int32))
    np.testing.assert_array_equal(beside.labels, labels)


def test_rows_remembered_carry_no_gradient(rng):
    memory = memory_of(3)
    student, teacher, labels, images = map(tf.constant, batch_of(rng, 3))
    with tf.GradientTape() as tape:
        tape.watch(student)
        memory.push(student, teacher, labels, images, tf.constant(True))
        remembered = tf.reduce_sum(memory.beside(images).student)
    gradient = tape.gradient(remembered, student, unconnected_gradients="zero")
    assert not np.any(gradient)
