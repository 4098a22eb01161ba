"""Tests for `ekd_tf.run.interruption`."""

import os
import signal

import pytest

from ekd_tf.run.interruption import Interrupted
from ekd_tf.run.interruption import Termination
from ekd_tf.run.interruption import TerminationHook
from ekd_tf.training.loop import Step


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def step(number, is_last=False):
    return Step(number, is_last, {}, {})


@pytest.fixture(autouse=True)
def not_ignored():
    """As in the foreground: where tests run in the background Ctrl-C is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def termination(not_ignored):
    with Termination() as termination:
        yield termination


@pytest.fixture
def saved():
    return []


@pytest.fixture
def hook(termination, saved):
    return TerminationHook(termination, lambda step: saved.append(step.number))


def test_the_step_in_hand_is_finished_and_saved(hook, saved):
    hook.after_step(step(1))
    terminate()
    with pytest.raises(Interrupted, match="SIGTERM: the run is saved at step 2."):
        hook.after_step(step(2))
    assert saved == [2]


def test_ctrl_c_is_taken_like_sigterm(hook, saved):
    hook.after_step(step(1))
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(Interrupted, match="Ctrl-C: the run is saved at step 2."):
        hook.after_step(step(2))
    assert saved == [2]
    with pytest.raises(Interrupted, match="Ctrl-C: the run ends at its last"):
        os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Termination() as termination:
            os.kill(os.getpid(), signal.SIGINT)
        assert not termination.asked
    finally:
        signal.signal(signal.SIGINT, before)


def test_after_the_last_step_the_run_ends_at_once(hook, saved):
    hook.after_step(step(1))
    hook.after_step(step(2, is_last=True))
    with pytest.raises(Interrupted, match="ends at its last checkpoint"):
        terminate()
    assert saved == []


def test_before_the_first_step_the_run_ends_at_once(hook, saved):
    with pytest.raises(Interrupted, match="ends at its last checkpoint"):
        terminate()
    # As if AutoGraph, which was converting the step, had gone on after that.
    with pytest.raises(Interrupted, match="saved at step 1"):
        hook.after_step(step(1))
    assert saved == [1]


def test_the_handler_before_is_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyError), Termination():
        assert signal.getsignal(signal.SIGTERM) != before
        raise KeyError
    assert signal.getsignal(signal.SIGTERM) == before


def test_workers_leave_one_step_after_the_question(termination, saved, two_replicas):
    # Two replicas stand for two workers: each asks, and the sum is everybody's answer.
    hook = TerminationHook(termination, lambda s: saved.append(s.number), two_replicas)
    # Within the first step.
    terminate()
    hook.after_step(step(1))
    with pytest.raises(Interrupted, match="saved at step 2"):
        hook.after_step(step(2))
    assert saved == [2]
