"""IResNet: exact sizes of all depths, precision, saving, training."""

import pytest

from ekd_tf.models.iresnet import IResNet
from ekd_tf.models.presets import count_parameters

TINY = {"depth": 18, "embedding_dim": 16, "width": 0.125, "input_size": 32}

# Of insightface's models, by torch.
PARAMETERS = {
    18: 24_025_600,
    34: 34_139_328,
    50: 43_590_848,
    100: 65_156_160,
    200: 118_833_920,
}
BLOCKS = {18: 8, 34: 16, 50: 24, 100: 49, 200: 98}


def check_size(depth):
    model = IResNet(depth=depth)
    # Torch counts the last normalisation's constant scale, one per dimension.
    assert count_parameters(model) + 512 == PARAMETERS[depth]
    assert sum(layer.name.endswith(".add") for layer in model.layers) == BLOCKS[depth]


@pytest.mark.parametrize("depth", [18, 50])
def test_default_width_has_the_reference_size(depth):
    check_size(depth)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [34, 100, 200])
def test_default_width_has_the_reference_size_at_the_other_depths(depth):
    check_size(depth)


@pytest.mark.parametrize("depth", [34, 100])
def test_depths_differ_by_whole_blocks(depth):
    """The sizes of the other depths, from iresnet18 and the blocks they add."""
    # A later block of c channels: two 3x3 kernels, three normalisations, slopes.
    block = [2 * 9 * c * c + 3 * 2 * c + c for c in (64, 128, 256, 512)]
    extra = {34: (1, 2, 4, 1), 100: (1, 11, 28, 1)}[depth]
    added = sum(size * count for size, count in zip(block, extra))
    assert PARAMETERS[18] + added == PARAMETERS[depth]
    tiny = IResNet(**{**TINY, "depth": depth})
    assert sum(layer.name.endswith(".add") for layer in tiny.layers) == BLOCKS[depth]
