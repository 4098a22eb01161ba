"""Tests for `ekd_tf.run.interruption`; of a run's steps in test_hooks.py."""

import os
import signal
import sys

import pytest

from ekd_tf.run.interruption import Termination
from ekd_tf.run.interruption import child_process

# Counts what it is sent until its input ends.
COUNT = """
import signal, sys
heard = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: heard.append(number))
print("ready", flush=True)
sys.stdin.read()
print(*heard)
"""


@pytest.fixture(autouse=True)
def handlers():
    """As in the foreground: where tests run in the background some are ignored."""
    numbers = signal.SIGINT, signal.SIGHUP
    before = [signal.signal(each, signal.default_int_handler) for each in numbers]
    yield
    for number, handler in zip(numbers, before):
        signal.signal(number, handler)


def heard_by_child(*numbers):
    """Returns what a child hears of signals sent to this process, and what it notes."""
    pipes = {"stdin": -1, "stdout": -1, "text": True}
    with child_process([sys.executable, "-c", COUNT], **pipes) as (child, signals):
        # Else the terminal would send it a second one.
        assert os.getpgid(child.pid) != os.getpgid(0)
        assert child.stdout.readline() == "ready\n"
        for number in numbers:
            os.kill(os.getpid(), number)
        heard = child.communicate()[0].split()
    return [int(number) for number in heard], signals


def test_a_signal_is_passed_on_once_and_that_of_a_closed_terminal_as_sigterm():
    interrupt, term, closed = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    before = signal.getsignal(term)
    assert heard_by_child(term) == ([term], [term])
    assert heard_by_child(interrupt, closed) == ([interrupt, term], [interrupt, closed])
    assert signal.getsignal(term) == before


def test_what_is_ignored_stays_so():
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    assert heard_by_child(signal.SIGHUP) == ([], [])
    termination = Termination()
    with termination.noted():
        os.kill(os.getpid(), signal.SIGINT)
    assert not termination.asked


def test_an_error_of_the_parent_leaves_no_child_and_no_handler():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyError):
        with child_process([sys.executable, "-c", COUNT], stdin=-1) as (child, _):
            raise KeyError
    assert child.returncode == -signal.SIGKILL
    with pytest.raises(KeyError), Termination().noted():
        assert signal.getsignal(signal.SIGTERM) != before
        raise KeyError
    assert signal.getsignal(signal.SIGTERM) == before
