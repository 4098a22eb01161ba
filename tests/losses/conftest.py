"""Batches of two models that have nothing to do with each other."""

import numpy as np
import pytest


@pytest.fixture
def random_batch(rng):
    """Returns `(rows, student_dim, teacher_dim) -> (student, teacher, labels)`."""

    def make(rows, student_dim=5, teacher_dim=5):
        return (
            np.float32(rng.normal(size=(rows, student_dim))),
            np.float32(rng.normal(size=(rows, teacher_dim))),
            np.int32(rng.integers(0, 4, rows)),
        )

    return make
