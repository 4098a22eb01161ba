"""Tests for `ekd_tf.run.lock`."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys

import pytest
from absl import logging

from ekd_tf.run.lock import WorkdirLock

# Without TensorFlow: the module is read as a file of its own.
HOLDER = """
import runpy
import sys
import time

lock = runpy.run_path(sys.argv[1])["WorkdirLock"](sys.argv[2])
with lock:
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock."""
    module = sys.modules[WorkdirLock.__module__].__file__
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, module, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_second_process_is_refused_with_the_name_of_the_first(tmp_path, holder):
    words = f"is in use by process {holder.pid} on {socket.gethostname()}. Wait for"
    for _ in range(2):
        with pytest.raises(ValueError, match=words), WorkdirLock(tmp_path):
            pass


def test_sigkill_frees_the_lock(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with WorkdirLock(tmp_path) as lock:
        text = lock.path.read_text()
        assert text == f"process {os.getpid()} on {socket.gethostname()}\n"


def test_what_the_file_says_binds_nobody(tmp_path):
    (tmp_path / "lock").write_text("process 1 on another-host, in the year 2099\n")
    with WorkdirLock(tmp_path):
        pass
    with WorkdirLock(tmp_path):
        pass


def test_leaving_frees_the_lock(tmp_path):
    with pytest.raises(KeyError), WorkdirLock(tmp_path):
        raise KeyError
    with WorkdirLock(tmp_path):
        pass


def fails_with(number):
    def flock(file, operation):
        raise OSError(number, os.strerror(number))

    return flock


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    warned = []
    monkeypatch.setattr(logging, "warning", lambda text, *a: warned.append(text % a))
    monkeypatch.setattr(fcntl, "flock", fails_with(errno.ENOLCK))
    with WorkdirLock(tmp_path):
        pass
    assert "cannot be locked (No locks available): make sure" in warned[0]


def test_other_errors_are_errors(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", fails_with(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"), WorkdirLock(tmp_path):
        pass
