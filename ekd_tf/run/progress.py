"""One line that says how far a run or other long work is, and how fast."""

from __future__ import annotations

import collections
import dataclasses
import sys
import time
from collections.abc import Callable
from typing import Any
from typing import TextIO

import numpy as np
from tqdm import tqdm

from ekd_tf.training.loop import Hook
from ekd_tf.training.loop import Step

# Updates the speed is the mean of.
_WINDOW = 50


class ProgressLine(tqdm):
    """Shows step, speed, time left and every loss term on one line.

    On a terminal tqdm draws the line in place; a file or a pipe gets the first line,
    one a minute and the last. Terms may be tensors: they are read only when a line is
    drawn. With a `name` it is of work that may be short: it begins after a second, in a
    file after a minute.
    """

    # No thread beside TensorFlow's.
    monitor_interval = 0

    def __init__(
        self,
        total_steps: int,
        unit: str = "images",
        stream: TextIO | None = None,
        initial_step: int = 0,
        name: str = "",
    ):
        stream = stream or sys.stderr
        self._is_terminal = stream.isatty()
        self._is_drawn = False
        self._name = name
        self._terms: dict[str, Any] = {}
        self._shown_rates: tuple[float, float] | None = None
        self._count = 0
        # One mark more than updates: n updates lie between n + 1 marks.
        self._marks: collections.deque = collections.deque(maxlen=_WINDOW + 1)
        super().__init__(
            total=total_steps,
            unit=unit,
            file=stream,
            initial=initial_step,
            mininterval=0.1 if self._is_terminal else 60,
            miniters=1,
            # Above 0: nothing is drawn before the first update.
            delay=1 if name else 1e-9,
            dynamic_ncols=self._is_terminal,
            position=0,
            bar_format=("{bar:10} " if self._is_terminal else "")
            + "{n}/{total}  {speed}ETA {remaining}{terms}{name}",
        )

    @property
    def per_second(self) -> float | None:
        """Units per second of the last 50 updates; None before the second one.

        The first after the start or a pause carries tracing and only starts the clock.
        """
        rates = self._rates()
        return rates and rates[1]

    def _rates(self):
        """Returns updates and units per second, or None."""
        if len(self._marks) < 2 or self._marks[-1][2] <= self._marks[0][2]:
            return None
        steps, units, seconds = np.subtract(self._marks[-1], self._marks[0])
        return float(steps / seconds), float(units / seconds)

    def update(
        self, count: int = 1, terms: dict[str, Any] | None = None, steps: int = 1
    ) -> None:
        """Notes an update, of so many units over all replicas, in so many steps."""
        self._count += count
        self._marks.append((self.n + steps, self._count, time.monotonic()))
        self._terms = terms or {}
        self._shown_rates = self._rates() or self._shown_rates
        drawn = super().update(steps)
        ends = self.n == self.total if self._is_drawn else not self._name
        if ends and not drawn:
            self.refresh()

    def pause(self) -> None:
        """Clears the line; the time until the next update does not enter the speed."""
        if self._is_terminal and self._is_drawn:
            self.clear()
        self._marks.clear()

    @property
    def format_dict(self) -> dict[str, Any]:
        """What tqdm puts into the line: the run's own speed and terms."""
        rate, units = self._shown_rates or (0, 0)
        speed = f"{units:,.0f}" if units >= 10 else f"{units:.2g}"
        return {
            **super().format_dict,
            "rate": rate,
            "speed": f"{speed} {self.unit}/s  " if rate else "",
            "name": self._name and f"  {self._name}",
            "terms": "".join(f"  {k} {float(v):.4g}" for k, v in self._terms.items()),
        }

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Draws the line in place, or off a terminal a whole one."""
        self._is_drawn = True
        if self._is_terminal:
            return super().display(msg, pos)
        self.fp.write(f"{self}\n")
        self.fp.flush()
        return True

    def close(self) -> None:
        """Ends the line for good."""
        if self._is_terminal and self._is_drawn:
            super().close()
        # Else tqdm would clear the last line.
        self.disable = True


@dataclasses.dataclass(eq=False)
class ProgressHook(Hook):
    """Shows the loss and its terms at every update, of `count` rows, on a line.

    The margin loss and the ratios of gradients come first, where a narrow terminal
    still shows them.
    """

    line: ProgressLine
    count: int

    def after_step(self, step: Step) -> None:
        scalars = step.scalars
        names = [name for name in ("loss", "loss/margin") if name in scalars]
        names += [name for name in scalars if name.startswith("gradient_ratio/")]
        names += [name for name in scalars if name.startswith("loss/")]
        self.line.update(self.count, {name: scalars[name] for name in names})


def begin_line(
    name: str, count: int, unit: str, stream: TextIO | None = None
) -> Callable[[int], None]:
    """Begins a line for work on so many units; returns what notes those just done.

    It ends when all are. What is below this room takes this function as `progress`.
    """
    line = ProgressLine(max(count, 1), unit, stream, name=name)

    def done(number):
        line.update(number, steps=number)
        if line.n >= count:
            line.close()

    return done
