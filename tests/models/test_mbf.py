"""insightface's mbf: groups, size, saving. Values are in test_torch_families.py."""

import numpy as np
import pytest

from ekd_tf.models import mbf
from ekd_tf.models.mbf import MBF
from ekd_tf.models.mbf import GroupSum
from ekd_tf.models.presets import count_parameters

TINY = {"embedding_dim": 6, "width": 0.125, "input_size": 32}


@pytest.fixture(scope="module")
def tiny():
    patch = pytest.MonkeyPatch()
    patch.setitem(mbf.MBF_SIZES, "mbf", ((1, 1, 1, 1), 2))
    yield MBF(**TINY)
    patch.undo()


def test_a_sum_over_groups_adds_what_each_channel_gives_to_an_output(run_as):
    # Two groups of two channels; channel c gives 10 c to the first output of its group
    # and 10 c + 1 to the second.
    given = np.array([0, 1, 10, 11, 20, 21, 30, 31], np.float32).reshape(1, 1, 1, 8)
    summed = run_as(GroupSum(2))(given)
    np.testing.assert_array_equal(np.ravel(summed), [10, 12, 50, 52])


def bottleneck(inputs, between, outputs):
    # Kernels, two values of each normalisation, slopes.
    first = inputs * between + 3 * between
    second = 9 * between + 3 * between
    return first + second + between * outputs + 2 * outputs


def test_size_is_that_of_the_definition(tiny):
    size = 27 * 16 + 3 * 16
    size += 9 * 16 * 2 + 3 * 16  # In groups of two channels.
    size += bottleneck(16, 16, 16) + bottleneck(16, 16, 16)
    size += bottleneck(16, 32, 32) + bottleneck(32, 32, 32)
    size += bottleneck(32, 64, 32) + bottleneck(32, 32, 32)
    size += 32 * 64 + 3 * 64
    size += 4 * 64 + 2 * 64 + 64 * 6 + 2 * 6
    assert count_parameters(tiny) == size
    assert tiny.output_shape == (None, 6)
