"""Tests for `ekd_tf.run.child`."""

import os
import signal
import sys

import pytest

from ekd_tf.run.child import child_process


@pytest.fixture(autouse=True)
def not_ignored():
    """As in the foreground: where tests run in the background Ctrl-C is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


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


def heard_by_child(send, *numbers):
    pipes = {"stdin": -1, "stdout": -1, "text": True}
    with child_process([sys.executable, "-c", COUNT], **pipes) as (child, signals):
        assert child.stdout.readline() == "ready\n"
        for number in numbers:
            send(number)
        heard = child.communicate()[0].split()
    return [int(number) for number in heard], signals


def to_this_process(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_once(number):
    before = signal.getsignal(number)
    assert heard_by_child(to_this_process, number) == ([number], [number])
    assert signal.getsignal(number) == before


def test_a_closed_terminal_ends_the_child_as_sigterm_does():
    # `nohup` has it ignored.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        heard, signals = heard_by_child(to_this_process, signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (heard, signals) == ([signal.SIGTERM], [signal.SIGHUP])


def test_the_terminal_does_not_send_the_child_a_second_one():
    with child_process([sys.executable, "-c", ""]) as (child, _):
        assert os.getpgid(child.pid) != os.getpgid(0)
        assert child.wait() == 0


def test_what_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert heard_by_child(to_this_process, signal.SIGHUP) == ([], [])
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_error_of_the_parent_leaves_no_child():
    with pytest.raises(KeyError):
        with child_process([sys.executable, "-c", COUNT], stdin=-1) as (child, _):
            raise KeyError
    assert child.returncode == -signal.SIGKILL
