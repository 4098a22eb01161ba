"""A run that is killed again and again ends like the one that was left alone."""

import json
import os
import pathlib
import signal

import commands
import numpy as np
import pytest
import test_logs
import test_session
import toys
from traces import events_in

from ekd_tf.embedders import load_embedder
from ekd_tf.run.interruption import RESUME_STATUS

PROGRAM = pathlib.Path(__file__).with_name("crash_run.py")
# How often the slow test is run, with other moments each time.
RUNS = int(os.environ.get("EKD_CRASH_RUNS", "1"))
SETTINGS = {
    **test_session.VALUES,
    "data": "synthetic:identities=6,images=4,size=32",
    "heldout_data": "synthetic:identities=4,images=4,size=32,first=100",
    "general_batch": 4,
    # A memory that fills in the run, and thresholds with gradient.
    "distill": "ekd:4:memory=64",
    "learning_rate": 0.001,
    "steps": 40,
    "lr_milestones": ["25"],
    "log_every": 1,
    "evaluate_every": 15,
    "checkpoint_every": 4,
    "max_checkpoints": 2,
    "deterministic": True,
}


def train(workdir, kill=None, **changes):
    """Runs until it is killed or ends; returns the status and the calls it printed."""
    values = {**SETTINGS, "workdir": str(workdir), **changes}
    done = commands.run(PROGRAM, json.dumps({"values": values, "kill": kill}))
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "teacher.keras"
    toys.backbone(dim=8, seed=7, size=32).save(path)
    return str(path)


@pytest.fixture(scope="module")
def uninterrupted(teacher, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
    status, calls = train(workdir, teacher=teacher)
    assert status == 0
    return workdir, int(calls)


def arrays(path):
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files}


def lines(workdir):
    """The logged lines, less what depends on the machine's mood."""
    logged = test_logs.lines(workdir)
    for line in logged:
        line.pop("throughput/images_per_second", None)
    return logged


def points(workdir):
    """Tag -> steps of its TensorBoard points, in the order TensorBoard reads them.

    Settings and charts, whose tags are in no group, are written at every start.
    """
    steps = {}
    for path in sorted(workdir.glob("*tfevents*")):
        for event in events_in(path):
            for value in event.summary.value:
                if value.tag[0].isdigit():
                    steps.setdefault(value.tag, []).append(event.step)
    steps.pop("6 training/throughput/images_per_second", None)
    return steps


def assert_same_run(one, other):
    """Weights, every state, and logs of two finished runs are equal."""
    names = sorted(path.name for path in (one / "checkpoints").iterdir())
    assert names == sorted(path.name for path in (other / "checkpoints").iterdir())
    for name in names:
        left = arrays(one / "checkpoints" / name)
        right = arrays(other / "checkpoints" / name)
        assert left.keys() == right.keys()
        for key, value in left.items():
            np.testing.assert_array_equal(value, right[key], err_msg=f"{name} {key}")
    assert lines(one) == lines(other)
    assert points(one) == points(other)
    for left, right in zip(*(load_embedder(run).get_weights() for run in (one, other))):
        np.testing.assert_array_equal(left, right)


def test_killed_run_ends_like_the_uninterrupted_one(teacher, uninterrupted, tmp_path):
    (workdir, calls), run = uninterrupted, tmp_path / "run"
    # Each within what the start before it has left to do.
    kills = [{"call": calls // 3}, {"call": calls // 4, "signal": signal.SIGTERM}]
    statuses = [train(run, kill, teacher=teacher)[0] for kill in kills]
    # SIGTERM saves the step in hand.
    saved = max((run / "checkpoints").glob("checkpoint-0*.npz"))
    assert lines(run)[-1]["step"] == int(saved.stem.split("-")[1])
    assert statuses == [-signal.SIGKILL, RESUME_STATUS]
    assert train(run, teacher=teacher)[0] == 0
    last = arrays(run / "checkpoints" / "checkpoint-000000040.npz")
    assert any("memory" in name for name in last)
    assert_same_run(workdir, run)


def random_kill(rng, calls):
    """A moment within the next five steps or so, by steps made or by file call."""
    if rng.random() < 0.5:
        return {"steps": rng.uniform(0, 5)}
    return {"call": int(rng.integers(1, 5 / SETTINGS["steps"] * calls))}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(RUNS))
def test_twenty_kills_change_nothing(teacher, uninterrupted, tmp_path, seed):
    (workdir, calls), run = uninterrupted, tmp_path / "run"
    rng = np.random.default_rng(seed)
    kills = [random_kill(rng, calls) for _ in range(20)]
    statuses = [train(run, kill, teacher=teacher)[0] for kill in kills]
    # The last moments may lie beyond the end of the run.
    assert set(statuses) <= {-signal.SIGKILL, 0}
    assert statuses.count(-signal.SIGKILL) >= 5
    assert train(run, teacher=teacher)[0] == 0
    assert_same_run(workdir, run)


# The backward pass of EKD once added gradients in order of arrival, in graphs of real
# size alone. Fast sibling: test_killed_run_ends_like_the_uninterrupted_one.
@pytest.mark.slow
def test_a_student_of_real_size_ends_alike_when_killed(teacher, tmp_path):
    changes = {
        "toy_student": False,
        "model": "mobilefacenet",
        "input_size": 56,
        "width": 0.5,
        "general_batch": 128,
        "balanced_identities": 16,
        "images_per_identity": 2,
        "teacher": teacher,
        "data": "synthetic:identities=40,images=4,size=32",
        "steps": 8,
        "lr_milestones": [],
        "checkpoint_every": 3,
        "evaluate_every": 0,
    }
    killed, _ = train(tmp_path / "killed", {"steps": 4}, **changes)
    assert killed == -signal.SIGKILL
    for name in ("killed", "one"):
        assert train(tmp_path / name, **changes)[0] == 0
    assert_same_run(tmp_path / "one", tmp_path / "killed")
