"""Networks of a block or two a stage, and images for them."""

import numpy as np
import pytest

from ekd_tf.models import ir
from ekd_tf.models import iresnet
from ekd_tf.models import mbf
from ekd_tf.models import mobilefacenet

# What `short_networks` leaves of each stage; one block where nothing is said.
BLOCKS = {"insightface_mbf": (1, 2, 1, 1), "insightface_mbf_large": (2, 1, 1, 1)}
ONE_EACH = (1, 1, 1, 1)


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (8, 32, 32, 3)).astype(np.uint8)


@pytest.fixture
def short_networks(monkeypatch):
    """Shortens every family; returns `family -> blocks of each stage`."""
    for table, key, value in (
        (iresnet.BLOCKS, 18, ONE_EACH),
        (ir.IR_BLOCKS, 18, ONE_EACH),
        (ir.IR_BLOCKS, 152, ONE_EACH),
        (mbf.MBF_SIZES, "mbf", (BLOCKS["insightface_mbf"], 2)),
        (mbf.MBF_SIZES, "mbf_large", (BLOCKS["insightface_mbf_large"], 4)),
    ):
        monkeypatch.setitem(table, key, value)
    stages = tuple((*stage[:3], min(stage[3], 1)) for stage in mobilefacenet.STAGES)
    monkeypatch.setattr(mobilefacenet, "STAGES", stages)
    return lambda family: BLOCKS.get(family, ONE_EACH)
