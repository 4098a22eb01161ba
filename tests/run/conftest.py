"""What makes the runs of these tests small."""

import pytest
import toys

from ekd_tf.run import assembly


@pytest.fixture(scope="module")
def small_student():
    """A student that traces in a fraction of the time; real ones: tests/integration."""

    def make(name, embedding_dim, input_size, **arguments):
        return toys.backbone(dim=embedding_dim, size=input_size, seed=None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly, "make_student", make)
        yield
