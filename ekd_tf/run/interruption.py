"""Ctrl-C, SIGTERM and a closed terminal: what is at work saves before it ends.

Imports no TensorFlow: commands need it before they have read their flags.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

from absl import logging

# What sysexits.h calls a temporary failure: the same command goes on. Schedulers can be
# told to try again.
RESUME_STATUS = os.EX_TEMPFAIL
_NAMES: dict[int, str] = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}
_PASSED_ON: dict[int, int] = {
    signal.SIGINT: signal.SIGINT,
    signal.SIGTERM: signal.SIGTERM,
    # A terminal that was closed: the child has another session and does not hear it.
    signal.SIGHUP: signal.SIGTERM,
}


class Interrupted(BaseException):
    """The run ended early and the same command continues it.

    As KeyboardInterrupt is, it is no `Exception`: what mends or words failures on the
    way lets it through.
    """


class Termination:
    """What is known of a signal to end a run."""

    def __init__(self) -> None:
        self.asked = False
        # Where the signal has not arrived here.
        self.name = "Another worker was stopped"
        # Whether a step follows, after which `TerminationHook` saves the run.
        self.between_steps = False

    def noted(self) -> contextlib.AbstractContextManager:
        """Notes Ctrl-C and SIGTERM; a second one, or one no step follows, raises."""
        return _handled(_NAMES, self._on_signal)

    def _on_signal(self, number, frame):
        at_once = self.asked or not self.between_steps
        # Also before raising: AutoGraph goes on after what is raised while it converts
        # a function, and the hook then ends the run after its first step.
        self.asked, self.name = True, _NAMES[number]
        if at_once:
            raise Interrupted(f"{self.name}: the run ends at its last checkpoint.")
        logging.info("%s: the run ends after this step; once more: now.", self.name)


def sigterm_as_ctrl_c() -> contextlib.AbstractContextManager:
    """Raises `KeyboardInterrupt("SIGTERM")`, so that files half-written are removed.

    Python would end at once, without its `finally` blocks.
    """

    def stop(*_):
        raise KeyboardInterrupt(_NAMES[signal.SIGTERM])

    return _handled([signal.SIGTERM], stop)


@contextlib.contextmanager
def child_process(
    command: list[str], **arguments: Any
) -> Iterator[tuple[subprocess.Popen, list[int]]]:
    """Starts a command to which Ctrl-C, SIGTERM and SIGHUP are passed on, once each.

    In a session of its own: else the terminal would send Ctrl-C to it as well. Yields
    the child, to be waited for within the context, and the signals passed on so far.
    """
    child: subprocess.Popen | None = None
    signals: list[int] = []

    def pass_on(number, _):
        signals.append(number)
        if child is not None:
            child.send_signal(_PASSED_ON[number])

    with _handled(_PASSED_ON, pass_on):
        child = subprocess.Popen(command, start_new_session=True, **arguments)
        # Of before it was there.
        for number in list(signals):
            child.send_signal(_PASSED_ON[number])
        with child:
            try:
                yield child, signals
            except BaseException:
                child.kill()
                raise


@contextlib.contextmanager
def _handled(numbers: Iterable[int], handler: Callable) -> Iterator[None]:
    """Handles signals, but those ignored before, as `nohup` has it, stay so."""
    previous = {
        number: signal.signal(number, handler)
        for number in numbers
        if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
