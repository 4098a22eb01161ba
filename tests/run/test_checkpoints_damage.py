"""Tests of `ekd_tf.run.checkpoints` on damaged files and killed processes."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from absl import logging

from ekd_tf.run.checkpoints import CheckpointStore


def numbers(value):
    return {"a/kernel": tf.Variable([[value, 2.0]]), "count": tf.Variable(int(value))}


def zeros():
    return {"a/kernel": tf.Variable([[0.0, 0.0]]), "count": tf.Variable(0)}


def saved(directory, *steps, **arguments):
    """A store with a checkpoint per step, whose kernel starts with the step."""
    store = CheckpointStore(directory, **arguments)
    for step in steps:
        store.save(step, numbers(float(step)), {"best": step / 100})
    return store


class Killed(BaseException):
    """Stands for a process that ends: no handler of `Exception` sees it."""


@pytest.fixture
def warned(monkeypatch):
    """The warnings logged, as text."""
    texts = []
    monkeypatch.setattr(
        logging, "warning", lambda message, *args: texts.append(message % args)
    )
    return texts


def flip_byte(content):
    # In the middle of the kernel's numbers, where only the checksum notices.
    position = content.index(np.float32([20.0, 2.0]).tobytes())
    return content[:position] + b"\xff" + content[position + 1 :]


DAMAGES = {
    "empty": lambda content: b"",
    "cut in half": lambda content: content[: len(content) // 2],
    "last byte missing": lambda content: content[:-1],
    "one byte changed": flip_byte,
    "zeros": lambda content: bytes(len(content)),
    "text": lambda content: b"not a checkpoint",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_file_falls_back_to_the_one_before(tmp_path, warned, damage):
    store = saved(tmp_path, 10, 20)
    path = store.path(20)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    variables = zeros()
    assert store.restore(variables)["step"] == 10
    np.testing.assert_array_equal(variables["a/kernel"].numpy(), [[10.0, 2.0]])
    (text,) = warned
    assert "checkpoint-000000020.npz is damaged" in text
    assert "Trying the checkpoint before it" in text


def test_archives_of_something_else_are_passed_over(tmp_path, warned):
    store = saved(tmp_path, 10, 20, 30)
    np.savez(store.path(20), a=np.zeros(3))
    header = {"format": 2, "step": 30, "dtypes": {}, "metadata": {}}
    header = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(store.path(30), __checkpoint__=header)
    assert store.restore(zeros())["step"] == 10
    assert "format 2, expected 1" in warned[0]
    assert len(warned) == 2


def test_pickles_are_never_loaded(tmp_path, warned):
    store = saved(tmp_path, 10)
    np.savez(store.path(20), __checkpoint__=np.array([{}], dtype=object))
    assert store.restore(zeros())["step"] == 10
    assert "allow_pickle" in warned[0]


def test_only_damaged_files_is_an_error(tmp_path, warned):
    store = saved(tmp_path, 10, 20)
    for step in (10, 20):
        store.path(step).write_bytes(b"")
    variables = zeros()
    with pytest.raises(ValueError, match="000000010.npz is damaged.*no other"):
        store.restore(variables)
    assert variables["count"].numpy() == 0


def test_a_damaged_file_asked_for_by_step_is_an_error(tmp_path, warned):
    store = saved(tmp_path, 10, 20)
    store.path(20).write_bytes(b"")
    with pytest.raises(ValueError, match="000000020.npz is damaged"):
        store.restore(zeros(), step=20)
    assert not warned


def test_a_damaged_newest_file_does_not_push_out_good_ones(tmp_path, warned):
    store = saved(tmp_path, 10, 20, 30, keep=3)
    store = CheckpointStore(tmp_path, keep=1)
    store.path(30).write_bytes(b"")
    store.restore(zeros())
    store.save(25, numbers(25.0))
    assert store.steps() == [25]
    assert store.restore(zeros())["step"] == 25


def test_crash_before_the_rename_leaves_the_checkpoints_as_they_were(
    tmp_path, monkeypatch
):
    store = saved(tmp_path, 10)

    def die(source, target):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        with pytest.raises(Killed):
            store.save(20, numbers(20.0))
    assert store.restore(zeros())["step"] == 10
    store.save(20, numbers(20.0))
    assert store.restore(zeros())["step"] == 20


def test_crash_before_pruning_loses_nothing(tmp_path, monkeypatch):
    store = saved(tmp_path, 10, keep=1)

    def die(step):
        raise Killed

    monkeypatch.setattr(store, "prune", die)
    with pytest.raises(Killed):
        store.save(20, numbers(20.0))
    store = CheckpointStore(tmp_path, keep=1)
    (tmp_path / "checkpoint-best.npz.tmp").write_bytes(b"")
    assert store.steps() == [10, 20]
    assert store.restore(zeros())["step"] == 20
    store.prune(20)
    assert os.listdir(tmp_path) == ["checkpoint-000000020.npz"]


def test_files_a_killed_save_left_are_removed_by_the_next(tmp_path):
    store = saved(tmp_path, 10)
    (tmp_path / "checkpoint-000000015.npz.tmp").write_bytes(b"half")
    store.save(20, numbers(20.0))
    assert sorted(os.listdir(tmp_path)) == [
        "checkpoint-000000010.npz",
        "checkpoint-000000020.npz",
    ]


WRITER = """
import sys

import numpy as np

from ekd_tf.run.checkpoints import CheckpointStore

store = CheckpointStore(sys.argv[1], keep=2)
step = 0
while True:
    step += 1
    store.save(step, {"v": np.full(500_000, step)}, {"value": step})
    if step == 3:
        print("writing", flush=True)
"""


@pytest.mark.slow
def test_sigkill_at_any_moment_leaves_a_whole_checkpoint(tmp_path, rng):
    for trial in range(3):
        folder = tmp_path / str(trial)
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.stdout.readline()
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0.0, 0.2))
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
        store = CheckpointStore(folder)
        value = np.zeros(500_000, int)
        metadata = store.restore({"v": value})
        assert metadata["step"] == metadata["value"] == store.latest() >= 3
        assert (value == metadata["step"]).all()
