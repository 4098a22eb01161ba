import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from refusals import refused
from toys import value_and_gradient

from ekd_tf.keras_compat import IS_KERAS_3
from ekd_tf.losses import DistillationLoss
from ekd_tf.losses import ICDFaceLoss


class Gap(DistillationLoss):
    """Records what `compute` was given."""

    def compute(self, student, teacher, labels, image_ids, training):
        self.given = (student, teacher, labels, image_ids, training)
        gap = tf.reduce_sum(student) * tf.reduce_sum(teacher)
        return {"gap/product": gap}, {"gap/rows": tf.constant(2.0)}


ROWS = np.float32([[1, 2], [3, 4]])


class OfTwo(DistillationLoss):
    """Takes what it uses and nothing else."""

    default_name = "of_two"

    def compute(self, teacher, student, image_ids):
        first = tf.cast(image_ids[0], tf.float32)
        return {self.name: tf.reduce_sum(student - teacher) + first}, {}


def test_compute_is_given_what_it_takes_by_name():
    terms = OfTwo()(3 * ROWS, ROWS, np.zeros(2, np.int32), np.float32([7, 8]))
    assert {name: float(value) for name, value in terms.items()} == {"of_two": 27}


KINDS = [tf.constant, np.array, tf.Variable]
if IS_KERAS_3:
    KINDS.append(lambda array: keras.Variable(array, dtype=str(array.dtype)))


@pytest.mark.parametrize("traced", [False, True], ids=["eager", "traced"])
def test_takes_tensors_arrays_and_variables_of_any_width(traced):
    for kind in KINDS:
        for real, whole in ((np.float16, np.int64), (np.float64, np.uint8)):
            loss = Gap()
            given = [kind(real(ROWS)), kind(real(ROWS))]
            given += [kind(whole([3, 4])), kind(whole([5, 6]))]
            step = functools.partial(loss, *given)
            terms = tf.function(step)() if traced else step()
            assert float(terms["gap/product"]) == 100
            dtypes = [tensor.dtype for tensor in loss.given[:4]]
            assert dtypes == [tf.float32] * 2 + [tf.int32] * 2
            if not traced:
                assert loss.given[2].numpy().tolist() == [3, 4]
                assert loss.given[3].numpy().tolist() == [5, 6]
    # Keras would make them float32, which has no 2^24 + 1.
    loss(ROWS, ROWS, np.float64([2**24 + 1, 0]), np.float64([2**24 + 1, 1]))
    assert loss.given[2][0] == loss.given[3][0] == 2**24 + 1


def test_labels_that_int32_cannot_hold_are_refused():
    for labels, image_ids in (([1, 1 + 2**32], [5, 6]), ([1, 2], [7, 7 - 2**33])):
        whole = np.array(labels), np.array(image_ids)
        for call in (Gap(), tf.function(Gap())):
            with pytest.raises(tf.errors.InvalidArgumentError, match="below 2.31"):
                call(ROWS, ROWS, *whole)


def test_teacher_receives_no_gradient():
    step = value_and_gradient(lambda models: Gap()(*models)["gap/product"])
    _, (to_student, to_teacher) = step((ROWS, ROWS))
    np.testing.assert_array_equal(to_student, np.full((2, 2), 10.0))
    assert to_teacher is None


def test_a_loss_must_define_compute():
    refused("must define `compute`", DistillationLoss(), ROWS, ROWS, error=TypeError)


def test_rejects_wrong_shapes_and_inputs_of_different_batches():
    labels, batch = np.zeros(2, np.int32), "must come from the same batch"
    for arguments, words in (
        ((ROWS[None], ROWS), "`student` must have 2 dimensions"),
        ((ROWS, ROWS[0]), "`teacher` must have 2 dimensions"),
        ((ROWS, ROWS, labels[:, None]), "`labels` must have 1 dimensions"),
        ((ROWS, ROWS, labels, labels[:, None]), "`image_ids` must have 1 dimensions"),
        ((ROWS, ROWS[:1]), batch),
        ((ROWS[:0], ROWS[:0]), "A batch must have rows"),
        ((ROWS, ROWS, np.zeros(3, np.int32)), batch),
        ((ROWS, ROWS, labels, np.zeros(3, np.int32)), batch),
    ):
        refused(words, Gap(), *arguments)


def test_xla_compiles_a_memory_of_rows_that_the_step_computes(rng):
    loss, other = ICDFaceLoss(3, 3, memory=5), ICDFaceLoss(3, 3, memory=5)
    weight, labels = tf.Variable(2 * tf.eye(3)), np.int32([7, 7, 3])

    @functools.partial(tf.function, jit_compile=True, autograph=False)
    def step(rows):
        return loss(tf.matmul(rows, weight), rows, labels)

    first, second = np.float32(rng.normal(size=(2, 3, 3)))
    # A batch that is not finite leaves the memory as it is.
    for rows in (first, np.where(first > 0, np.nan, first), second):
        value = step(rows)["icd_face"]
        np.testing.assert_allclose(value, other(2 * rows, rows, labels)["icd_face"])
        for variable, expected in zip(loss.variables, other.variables):
            np.testing.assert_allclose(np.array(variable), np.array(expected))
