"""Shared fixtures: seeded random numbers, execution modes, real data."""

import gc
import os
import pathlib
import resource

import eager
import numpy as np
import pytest
import tensorflow as tf
from absl import logging

# Virtual devices can only be made before the first op runs, so every test sees
# four logical CPUs; tests without a strategy use the first.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 4,
)
# A test ends before a second thread has done anything worth its waking.
tf.config.threading.set_intra_op_parallelism_threads(1)
# What was imported stays: no collection need look at it again. And a trace makes so
# many objects that at the default thresholds there is always one at work.
gc.freeze()
gc.set_threshold(100_000, 20, 100)


@pytest.fixture
def rng():
    return np.random.default_rng(20220605)


@pytest.fixture(params=["eager", "graph", "xla"])
def run_as(request):
    """Returns `f -> f` wrapped to run eagerly, as a graph or under XLA."""
    return {
        "eager": lambda f: f,
        "graph": lambda f: tf.function(f, autograph=False),
        "xla": lambda f: tf.function(f, jit_compile=True, autograph=False),
    }[request.param]


@pytest.fixture
def op_by_op():
    """Runs the test's functions op by op."""
    with eager.op_by_op():
        yield


@pytest.fixture(scope="module")
def module_op_by_op():
    """Runs the functions of a whole file op by op, its fixtures' too."""
    with eager.op_by_op():
        yield


# One strategy per set of devices and process: the collectives of a second one would
# meet the first one's instance numbers and abort.
@pytest.fixture(scope="session")
def two_replicas():
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture
def warnings_logged(monkeypatch):
    """The messages absl logs as warnings while the test runs."""
    messages = []
    monkeypatch.setattr(
        logging, "warning", lambda text, *args: messages.append(text % args)
    )
    return messages


@pytest.fixture
def few_descriptors():
    """Lets the test open eight files more than are open, unless it asks for more."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(map(int, os.listdir("/proc/self/fd"))) + 8
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, limits[1]))
    yield most
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.fixture
def notes(caplog):
    """Returns the function that lists the messages absl has logged."""
    caplog.set_level("INFO", logger="absl")
    return lambda: [record.getMessage() for record in caplog.records]


def _draw_nothing(patch):
    """Leaves curves and histograms of evaluations black, which takes no time."""
    for name in ("plot_roc", "plot_similarities"):
        name = f"ekd_tf.evaluation.protocols.{name}"
        patch.setattr(name, lambda *args, **kwargs: np.zeros((4, 4, 3), np.uint8))


@pytest.fixture
def no_pictures(monkeypatch):
    """Draws no pictures in the test's evaluations."""
    _draw_nothing(monkeypatch)


@pytest.fixture(scope="module")
def module_no_pictures():
    """Draws no pictures in the evaluations of a whole file."""
    with pytest.MonkeyPatch.context() as patch:
        _draw_nothing(patch)
        yield


@pytest.fixture
def mixed_policy():
    """Sets a Keras dtype policy by name and restores float32 afterwards."""
    yield tf.keras.mixed_precision.set_global_policy
    tf.keras.mixed_precision.set_global_policy("float32")


@pytest.fixture(scope="session")
def realdata():
    """The folder of real faces named by EKD_REALDATA; skips where it is missing."""
    root = pathlib.Path(os.environ.get("EKD_REALDATA", "no folder named"))
    if not root.is_dir():
        pytest.skip("real faces are not distributed with the project")
    return root


@pytest.fixture(scope="session")
def golden():
    """The folder of upstream reference arrays (tests/golden/README.md)."""
    return pathlib.Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden_arrays(golden):
    """Returns `file name -> {name: array}` of those reference arrays."""

    def read(name):
        with np.load(golden / name) as archive:
            return dict(archive)

    return read
