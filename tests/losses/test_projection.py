import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.losses import CosineLoss
from ekd_tf.losses import FitNetLoss
from ekd_tf.losses import ProjectedLoss


def test_equal_sizes_own_nothing(random_batch):
    for loss in (ProjectedLoss(), ProjectedLoss(5, 5), ProjectedLoss(teacher_dim=5)):
        student, teacher, _ = map(tf.constant, random_batch(3))
        assert loss.project(student, teacher) is student
        assert not loss.variables


def test_projects_the_student_by_its_kernel():
    loss = FitNetLoss(student_dim=2, teacher_dim=3)
    (kernel,) = loss.trainable_variables
    kernel.assign([[1.0, 2.0, 0.0], [0.0, 0.0, 3.0]])
    # (4, 5) becomes (4, 8, 15), off by (1, 2, 4): 21 / 3.
    terms = loss(np.float32([[4, 5]]), np.float32([[3, 6, 11]]))
    np.testing.assert_allclose(terms["fitnet"], 7.0, rtol=1e-6)


def test_kernel_is_there_before_the_first_batch():
    assert len(CosineLoss(student_dim=2, teacher_dim=3).trainable_variables) == 1


def test_kernel_stays_float32_under_mixed_precision(mixed_policy):
    mixed_policy("mixed_float16")
    loss = CosineLoss(student_dim=2, teacher_dim=3)
    assert tf.as_dtype(loss.projection.compute_dtype) == tf.float32
    assert loss.projection(tf.ones((1, 2))).dtype == tf.float32


def test_config_keeps_the_sizes():
    restored = CosineLoss.from_config(CosineLoss(2, 3).get_config())
    assert (restored.student_dim, restored.teacher_dim) == (2, 3)


def test_rejects_a_student_size_alone():
    with pytest.raises(ValueError, match="`student_dim` needs `teacher_dim` beside it"):
        CosineLoss(student_dim=4)


@pytest.mark.parametrize("dims", [(0, 3), (3, -1)])
def test_rejects_sizes_that_are_not_positive(dims):
    with pytest.raises(ValueError, match=r"_dim` must be in \(0, inf\)"):
        CosineLoss(*dims)


def test_rejects_embeddings_of_other_sizes_than_announced():
    with pytest.raises(ValueError, match="Received: student_dim=2, teacher_dim=3"):
        CosineLoss(2, 3)(np.ones((1, 2), np.float32), np.ones((1, 2), np.float32))
