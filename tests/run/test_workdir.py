"""Tests for `ekd_tf.run.workdir`."""

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys

import pytest
from absl import logging

from ekd_tf.run.provenance import package_commit
from ekd_tf.run.workdir import Workdir

FLAGS = {"lr": 0.1, "seed": 3, "distill": ["ekd:1"], "log_every": 20, "data": None}
VERSIONS = {"tensorflow": "2.21.0", "keras": "3.15.0"}
COMMAND = ["ekd-train", "--lr=0.1"]


@pytest.fixture
def recorded(tmp_path):
    workdir = Workdir(tmp_path / "run")
    workdir.record_run(FLAGS, VERSIONS, COMMAND)
    return workdir


def test_makes_its_folders(tmp_path):
    workdir = Workdir(tmp_path / "a" / "b")
    assert workdir.path == tmp_path / "a" / "b"
    names = {"checkpoints", "reports"}
    assert {path.name for path in workdir.path.iterdir()} == names
    for name in names:
        assert getattr(workdir, name) == workdir.path / name
        assert getattr(workdir, name).is_dir()


def test_records_the_run(recorded):
    run = json.loads((recorded.path / "run.json").read_text())
    assert run["flags"] == FLAGS
    assert run["seed"] == 3
    (start,) = run["starts"]
    assert start["versions"] == VERSIONS
    assert start["command"] == COMMAND
    assert start["commit"] == package_commit()
    assert start["time"][:2] == "20"
    assert recorded.read_run() == run


def test_a_resumed_run_adds_its_start(recorded):
    recorded.record_run({**FLAGS, "log_every": 5}, {"keras": "4"}, ["again"])
    run = recorded.read_run()
    assert run["flags"]["log_every"] == 5
    assert [start["command"] for start in run["starts"]] == [COMMAND, ["again"]]
    assert [start["versions"] for start in run["starts"]] == [VERSIONS, {"keras": "4"}]


def test_the_same_flags_continue_the_run(recorded):
    assert recorded.check_same_run(dict(FLAGS)) == {}
    # A tuple is recorded as a list.
    assert recorded.check_same_run({**FLAGS, "distill": ("ekd:1",)}) == {}


def test_free_flags_may_change(recorded):
    flags = {**FLAGS, "log_every": 1}
    assert recorded.check_same_run(flags, free=("log_every",)) == {}
    with pytest.raises(ValueError, match="`--log_every` was 20, now 1"):
        recorded.check_same_run(flags)


def test_lists_every_flag_that_changed(recorded):
    flags = {**FLAGS, "lr": 0.2, "distill": [], "log_every": 1, "new": True}
    del flags["data"]
    with pytest.raises(ValueError) as error:
        recorded.check_same_run(flags, free=("log_every",))
    assert str(error.value) == (
        f"workdir {recorded.path} belongs to another run: "
        "`--data` was None, now not given; "
        "`--distill` was ['ekd:1'], now []; "
        "`--lr` was 0.1, now 0.2; "
        "`--new` was not given, now True. Use another "
        "--workdir, or --force_flags to continue this one with the new values"
    )


def test_forced_flags_continue_the_run_and_are_recorded(recorded, monkeypatch):
    warned = []
    monkeypatch.setattr(logging, "warning", lambda text, *a: warned.append(text % a))
    flags = {**FLAGS, "lr": 0.2}
    changed = recorded.check_same_run(flags, force=True)
    assert changed == {"lr": [0.1, 0.2]}
    assert warned == ["The run continues with other flags: `--lr` was 0.1, now 0.2"]
    recorded.record_run(flags, VERSIONS, COMMAND, changed)
    assert [start["changed"] for start in recorded.read_run()["starts"]] == [
        {},
        changed,
    ]
    # The new values are the run's from now on.
    assert recorded.check_same_run(flags) == {}


def test_another_teacher_behind_the_name_does_not_continue_the_run(tmp_path, recorded):
    recorded.check_same_teacher("of any")
    workdir = Workdir(tmp_path / "distilled")
    workdir.check_same_teacher("new")
    workdir.record_run(FLAGS, VERSIONS, COMMAND, teacher="of the teacher")
    workdir.check_same_teacher("of the teacher")
    for other in ("of another", None):
        with pytest.raises(ValueError, match="fingerprint was of the teach and is"):
            workdir.check_same_teacher(other)
    workdir.check_same_teacher("of another", force=True)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"flags": {}}'])
def test_a_damaged_record_is_an_error_with_its_path(recorded, content):
    recorded.run_file.write_text(content)
    for call in (
        recorded.read_run,
        lambda: recorded.check_same_run(FLAGS),
        lambda: recorded.record_run(FLAGS, VERSIONS, COMMAND),
    ):
        with pytest.raises(ValueError, match="run.json does not describe a run"):
            call()
    assert recorded.run_file.read_text() == content


def test_rejects_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="must be a folder that .*file"):
        Workdir(tmp_path / "file")


@pytest.mark.parametrize("name", ["missing", "empty", "file.keras"])
def test_reading_requires_a_run_and_writes_nothing(tmp_path, recorded, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.keras").touch()
    with pytest.raises(ValueError, match=f"{name} is not the workdir of a run"):
        Workdir(tmp_path / name, create=False)
    assert not (tmp_path / "missing").exists()
    recorded.reports.rmdir()
    assert Workdir(recorded.path, create=False).read_run()["flags"] == FLAGS
    assert not recorded.reports.exists()


HOLDER = """
import sys, time
from ekd_tf.run.workdir import Workdir
with Workdir(sys.argv[1]).locked():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_one_process_at_a_time_until_sigkill_frees_the_lock(tmp_path, holder):
    workdir = Workdir(tmp_path)
    words = f"is in use by process {holder.pid} on {socket.gethostname()}. Wait for"
    for _ in range(2):
        with pytest.raises(ValueError, match=words), workdir.locked():
            pass
    holder.kill()
    holder.wait()
    with workdir.locked():
        text = (tmp_path / "lock").read_text()
        assert text == f"process {os.getpid()} on {socket.gethostname()}\n"


def test_leaving_frees_the_lock_and_what_its_file_says_binds_nobody(tmp_path):
    (tmp_path / "lock").write_text("process 1 on another-host, in the year 2099\n")
    with pytest.raises(KeyError), Workdir(tmp_path).locked():
        raise KeyError
    with Workdir(tmp_path).locked():
        pass


def test_a_file_system_without_locks_is_said_and_other_errors_are_errors(
    tmp_path, monkeypatch
):
    def fail_with(number):
        def flock(file, operation):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)

    warned = []
    monkeypatch.setattr(logging, "warning", lambda text, *a: warned.append(text % a))
    fail_with(errno.ENOLCK)
    with Workdir(tmp_path).locked():
        pass
    assert "cannot be locked (No locks available): make sure" in warned[0]
    fail_with(errno.EIO)
    with pytest.raises(OSError, match="Input/output"), Workdir(tmp_path).locked():
        pass


def test_a_path_that_tensorboard_cannot_write_to_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`workdir` must be a path in UTF-8"):
        Workdir(os.fsdecode(os.fsencode(tmp_path) + b"/v\xe9lo"))


def test_a_byte_order_mark_before_a_record_is_skipped(recorded):
    text = recorded.run_file.read_bytes()
    recorded.run_file.write_bytes(b"\xef\xbb\xbf" + text)
    assert recorded.read_run() == json.loads(text)
