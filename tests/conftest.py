"""How the tests run; what they share is in tf_fixtures.py."""

import os

import pytest

from ekd_tf.run.quiet import quiet_tensorflow

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("MPLBACKEND", "Agg")
# What XLA compiles here runs once: to optimise it would take longer than to run it.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
quiet_tensorflow()


def pytest_configure(config):
    """Loads the fixtures where tests run: they import TensorFlow, which takes seconds.

    The process that hands tests to others (`-n`) does without.
    """
    if config.getoption("dist", "no") == "no":
        config.pluginmanager.import_plugin("tf_fixtures")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Leaves out the tests of the other stack, and begins with those of commands.

    On the one with Addons leaves to `-m slow` what the current one shows alike.
    """
    from ekd_tf.keras_compat import IS_KERAS_3

    # They wait for processes: at the end one core would idle.
    items.sort(key=lambda item: "integration" not in item.path.parts)
    other = "keras2" if IS_KERAS_3 else "keras3"
    left = [item for item in items if item.get_closest_marker(other)]
    items[:] = [item for item in items if item not in left]
    config.hook.pytest_deselected(items=left)
    for item in items if not IS_KERAS_3 else ():
        marks = {mark.name for mark in item.iter_markers()}
        if not marks & {"both_stacks", "keras2", "browser"}:
            item.add_marker("slow")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Under EKD_NO_SKIPS fails what is skipped for anything but real faces."""
    report = (yield).get_result()
    if not os.environ.get("EKD_NO_SKIPS") or not report.skipped:
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
    if "real faces" not in reason:
        report.outcome = "failed"
        report.longrepr = f"EKD_NO_SKIPS is set. {reason}"
