"""Commands started by a command: what stops the parent lets the child save first."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

# What sysexits.h calls a temporary failure: the same command goes on. Schedulers can be
# told to try again.
RESUME_STATUS = os.EX_TEMPFAIL
_PASSED_ON: dict[int, int] = {
    signal.SIGINT: signal.SIGINT,
    signal.SIGTERM: signal.SIGTERM,
    # A terminal that was closed: the child has another session and does not hear it.
    signal.SIGHUP: signal.SIGTERM,
}


@contextlib.contextmanager
def child_process(
    command: list[str], **arguments: Any
) -> Iterator[tuple[subprocess.Popen, list[int]]]:
    """Starts a command to which Ctrl-C, SIGTERM and SIGHUP are passed on, once each.

    In a session of its own: else the terminal would send Ctrl-C to it as well, and the
    second one ends a run at once. Signals this process ignores are not passed on.

    Yields:
        The running child, to be waited for within the context, and the numbers of the
        signals passed on so far.
    """
    child: subprocess.Popen | None = None
    signals: list[int] = []

    def pass_on(number, _):
        signals.append(number)
        if child is not None:
            child.send_signal(_PASSED_ON[number])

    previous = {
        number: signal.signal(number, pass_on)
        for number in _PASSED_ON
        if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
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
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
