"""Ctrl-C and SIGTERM: the step in hand is finished, the run saved and left."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from absl import logging

from ekd_tf.training.loop import Hook
from ekd_tf.training.loop import Step

_NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}


class Interrupted(Exception):  # noqa: N818 - a run that is to go on has not failed
    """The run ended early and the same command goes on with it."""


class Termination:
    """Notes Ctrl-C and SIGTERM, as a context manager.

    A step in hand is finished first (`TerminationHook`). Anywhere else, and at a
    second signal, the run ends at once, with its last checkpoint. A signal that was
    ignored before, as the shell has background jobs ignore Ctrl-C, stays so.

    Attributes:
        asked: Whether a signal has arrived.
        name: What the signal is called, or that another worker got it.
        between_steps: Whether a step follows; set by the hook.
    """

    def __init__(self):
        self.asked = False
        # Where the signal has not arrived here.
        self.name = "Another worker was stopped"
        self.between_steps = False
        self._previous: dict = {}

    def __enter__(self) -> Termination:
        self._previous = {
            number: signal.signal(number, self._on_signal)
            for number in _NAMES
            if signal.getsignal(number) != signal.SIG_IGN
        }
        return self

    def __exit__(self, *error):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number, frame):
        at_once = self.asked or not self.between_steps
        # Also before raising: AutoGraph goes on after what is raised while it converts
        # a function, and the hook then ends the run after its first step.
        self.asked, self.name = True, _NAMES[number]
        if at_once:
            raise Interrupted(f"{self.name}: the run ends at its last checkpoint.")
        logging.info("%s: the run ends after this step; once more: now.", self.name)


class TerminationHook(Hook):
    """Saves and ends a run after the step in which a signal arrived; belongs last.

    The signal may reach any of several workers, whose strategy is given then, at
    different steps: after every step they ask each other, and all leave after the same
    one. Of one worker alone, one within the first step, which is compiled, ends the run
    at once.
    """

    def __init__(
        self,
        termination: Termination,
        save: Callable[[Step], Any],
        strategy: tf.distribute.Strategy | None = None,
    ):
        self._termination = termination
        self._save = save
        self._ask_all = None if strategy is None else _any_worker(strategy)
        if strategy is not None:
            # One that left alone within the first step would hang the others.
            termination.between_steps = True
        self._answer = None

    def after_step(self, step: Step) -> None:
        self._termination.between_steps = not step.is_last
        if self._is_asked():
            self._save(step)
            raise Interrupted(
                f"{self._termination.name}: the run is saved at step {step.number}."
            )

    def _is_asked(self):
        if self._ask_all is None:
            return self._termination.asked
        # The answer to the last step's question: no step waits for the network.
        answer, self._answer = self._answer, self._ask_all(self._termination.asked)
        return answer is not None and bool(answer)


def _any_worker(strategy):
    """Returns a function of a bool: above 0 where any worker called it with True."""

    @tf.function(autograph=False)
    def count(asked):
        def total():
            context = tf.distribute.get_replica_context()
            # An argument has no device, and workers refuse to reduce what has none.
            return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(asked))

        return strategy.experimental_local_results(strategy.run(total))[0]

    return lambda asked: count(tf.constant(float(asked)))
