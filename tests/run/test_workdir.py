import errno
import fcntl
import json
import os
import socket
import sys

import numpy as np
import pytest
from refusals import refused

from ekd_tf.run.provenance import package_commit
from ekd_tf.run.workdir import Workdir

FLAGS = {"lr": 0.1, "seed": 3, "distill": ["ekd:1"], "log_every": 20, "data": None}


@pytest.fixture
def recorded(tmp_path):
    workdir = Workdir(tmp_path / "run")
    workdir.record_run(FLAGS)
    return workdir


def test_records_the_run_and_each_start(recorded, monkeypatch):
    run = json.loads((recorded.path / "run.json").read_text())
    assert run["flags"] == FLAGS and run["seed"] == 3
    (start,) = run["starts"]
    assert start["versions"]["numpy"] == np.__version__
    assert start["command"] == sys.argv
    assert start["commit"] == package_commit() and start["time"][:2] == "20"
    assert recorded.read_run() == run
    first = list(sys.argv)
    monkeypatch.setattr(sys, "argv", ["again"])
    recorded.record_run({**FLAGS, "log_every": 5})
    run = recorded.read_run()
    assert run["flags"]["log_every"] == 5
    assert [start["command"] for start in run["starts"]] == [first, ["again"]]
    # With a byte-order mark, as some editors leave it.
    recorded.run_file.write_bytes(b"\xef\xbb\xbf" + recorded.run_file.read_bytes())
    assert recorded.read_run() == run


def test_lists_every_flag_that_changed(recorded):
    flags = {**FLAGS, "lr": 0.2, "distill": [], "log_every": 1, "new": True}
    del flags["data"]
    assert refused(None, recorded.check_same_run, flags, free=("log_every",)) == (
        f"workdir {recorded.path} belongs to another run: "
        "`--data` was None, now not given; "
        "`--distill` was ['ekd:1'], now []; "
        "`--lr` was 0.1, now 0.2; "
        "`--new` was not given, now True. Use another "
        "--workdir, or --force_flags to continue this one with the new values"
    )


def test_forced_flags_continue_the_run_and_are_recorded(recorded, caplog):
    # A tuple is recorded as a list.
    flags = {**FLAGS, "lr": 0.2, "distill": ("ekd:1",)}
    changed = recorded.check_same_run(flags, force=True)
    assert changed == {"lr": [0.1, 0.2]}
    assert caplog.messages == [
        "The run continues with other flags: `--lr` was 0.1, now 0.2"
    ]
    recorded.record_run(flags, changed)
    starts = recorded.read_run()["starts"]
    assert [start["changed"] for start in starts] == [{}, changed]
    # The new values are the run's from now on.
    assert recorded.check_same_run(flags) == {}


def test_another_teacher_behind_the_name_does_not_continue_the_run(tmp_path, recorded):
    recorded.check_same_teacher("of any")
    workdir = Workdir(tmp_path / "distilled")
    workdir.check_same_teacher("new")
    workdir.record_run(FLAGS, teacher="of the teacher")
    workdir.check_same_teacher("of the teacher")
    for other in ("of another", None):
        refused("print was of the teach and is", workdir.check_same_teacher, other)
    workdir.check_same_teacher("of another", force=True)


def test_a_damaged_record_is_an_error_with_its_path(recorded):
    for content in ("", "{", "[]", "{}", '{"flags": {}}'):
        recorded.run_file.write_text(content)
        for call in (
            recorded.read_run,
            lambda: recorded.check_same_run(FLAGS),
            lambda: recorded.record_run(FLAGS),
        ):
            refused("run.json does not describe a run", call)
        assert recorded.run_file.read_text() == content


def test_a_path_that_is_no_workdir_is_refused(tmp_path, recorded):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.keras").touch()
    for name in ("missing", "empty", "file.keras"):
        words = f"{name} is not the workdir of a run"
        refused(words, Workdir, tmp_path / name, create=False)
    assert not (tmp_path / "missing").exists()
    refused("must be a folder that .*file", Workdir, tmp_path / "file.keras")
    # TensorBoard could not write there.
    latin = os.fsdecode(os.fsencode(tmp_path) + b"/v\xe9lo")
    refused("`workdir` must be a path in UTF-8", Workdir, latin)
    # Reading writes nothing.
    recorded.reports.rmdir()
    assert Workdir(recorded.path, create=False).read_run()["flags"] == FLAGS
    assert not recorded.reports.exists()


# Killed while it holds one: tests/integration/test_crash.py.
def test_one_process_at_a_time_holds_it_whatever_the_file_says(tmp_path):
    workdir, lock = Workdir(tmp_path), tmp_path / "lock"
    # As one that was killed leaves it.
    lock.write_text(f"process 1 on {socket.gethostname()} and more")
    me = f"process {os.getpid()} on {socket.gethostname()}"
    for _ in range(2):
        # Leaving frees it, by an error too.
        with pytest.raises(KeyError), workdir.locked():
            # A lock is of the open file: this is what another process meets.
            refused(f"is in use by {me}. Wait for", workdir.locked().__enter__)
            assert lock.read_text() == f"{me}\n"
            raise KeyError


def test_a_file_system_without_locks_is_said_and_other_errors_are_errors(
    tmp_path, monkeypatch, caplog
):
    numbers = [errno.EIO, errno.ENOLCK]

    def flock(file, operation):
        raise OSError(number := numbers.pop(), os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with Workdir(tmp_path).locked():
        pass
    assert "cannot be locked (No locks available): make sure" in caplog.text
    with pytest.raises(OSError, match="Input/output"), Workdir(tmp_path).locked():
        pass
