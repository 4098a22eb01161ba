"""One line that says how far a run is, how fast, and what it loses."""

from __future__ import annotations

import collections
import math
import sys
import time
from collections.abc import Callable
from typing import Any
from typing import TextIO

import numpy as np
from tqdm import tqdm

from ekd_tf.checks import check_positive
from ekd_tf.training.loop import Hook
from ekd_tf.training.loop import Step

# Updates the speed is the mean of.
_WINDOW = 50


class ProgressLine:
    """Shows step, speed, time left and every loss term on one line.

    On a terminal tqdm draws the line in place; a file or a pipe gets the first line,
    one a minute and the last. Terms may be tensors: they are read only when a line is
    drawn, so updates in between do not wait for the device.

    Args:
        total_steps: Updates in the whole run.
        unit: What is counted per second.
        stream: Text stream; standard error if None.
        initial_step: Updates made before, when the run is resumed.
    """

    def __init__(
        self,
        total_steps: int,
        unit: str = "images",
        stream: TextIO | None = None,
        initial_step: int = 0,
    ):
        check_positive("total_steps", total_steps)
        self.step = initial_step
        self._total = total_steps
        self._bar = _Bar(total_steps, unit, stream or sys.stderr, initial_step)
        self._count = 0
        # One mark more than updates: n updates lie between n + 1 marks.
        self._marks: collections.deque = collections.deque(maxlen=_WINDOW + 1)

    @property
    def per_second(self) -> float | None:
        """Units per second of the last 50 updates; None before the second update.

        The first update after the start or a pause only starts the clock: it
        carries tracing and the filling of the input pipeline.
        """
        return self._rates()[1] if self._rates() else None

    def _rates(self):
        """Returns updates and units per second, or None."""
        if len(self._marks) < 2 or self._marks[-1][2] <= self._marks[0][2]:
            return None
        steps, units, seconds = np.subtract(self._marks[-1], self._marks[0])
        return float(steps / seconds), float(units / seconds)

    def update(self, count: int, terms: dict[str, Any] | None = None) -> None:
        """Notes that one more update was made.

        Args:
            count: Units (images) the update consumed over all replicas.
            terms: Name -> number or scalar tensor, shown in this order.
        """
        self.step += 1
        self._count += count
        self._marks.append((self.step, self._count, time.monotonic()))
        bar = self._bar
        bar.terms, bar.rates = terms or {}, self._rates() or bar.rates
        if not bar.update() and (self.step == self._total or not bar.is_drawn):
            bar.refresh()

    def pause(self) -> None:
        """Clears the line before something else is printed or takes long.

        The time until the next update does not enter the speed.
        """
        if self._bar.is_terminal and self._bar.is_drawn:
            self._bar.clear()
        self._marks.clear()

    def close(self) -> None:
        """Ends the line for good."""
        self._bar.close()


class _Bar(tqdm):
    """tqdm's bar with the run's own speed and terms; whole lines off a terminal."""

    # No thread beside TensorFlow's.
    monitor_interval = 0

    def __init__(self, total, unit, stream, initial):
        self.is_terminal = stream.isatty()
        self.is_drawn = False
        self.terms, self.rates = {}, None
        super().__init__(
            total=total,
            unit=unit,
            file=stream,
            initial=initial,
            mininterval=0.1 if self.is_terminal else 60,
            miniters=1,
            # Above 0: nothing is drawn before the first update.
            delay=1e-9,
            dynamic_ncols=self.is_terminal,
            position=0,
            bar_format=("{bar:10} " if self.is_terminal else "")
            + "{n}/{total}  {speed}ETA {remaining}{terms}",
        )

    @property
    def format_dict(self):
        speed = f"{self.rates[1]:.0f} {self.unit}/s  " if self.rates else ""
        terms = "".join(f"  {k} {float(value):.4g}" for k, value in self.terms.items())
        rate = self.rates[0] if self.rates else 0
        return {**super().format_dict, "rate": rate, "speed": speed, "terms": terms}

    def display(self, msg=None, pos=None):
        self.is_drawn = True
        if self.is_terminal:
            return super().display(msg, pos)
        self.fp.write(f"{self}\n")
        self.fp.flush()
        return True

    def close(self):
        if self.is_terminal and self.is_drawn:
            super().close()
        # Else tqdm would clear the last line.
        self.disable = True


class ProgressHook(Hook):
    """Shows the loss and its terms at every update on a progress line.

    Right behind the loss, where a narrow terminal still shows them, stand the margin
    loss and the gradients of distillation losses as ratios to its gradient.

    Args:
        line: The line.
        count: Rows of a global batch.
    """

    def __init__(self, line: ProgressLine, count: int):
        self._line = line
        self._count = count

    def after_step(self, step: Step) -> None:
        scalars = step.scalars
        names = [name for name in ("loss", "loss/margin") if name in scalars]
        names += [name for name in scalars if name.startswith("gradient_ratio/")]
        names += [name for name in scalars if name.startswith("loss/")]
        terms = {name: scalars[name] for name in names}
        self._line.update(self._count, terms)


def embedding_progress(batch_size: int) -> Callable[[str, int], Callable[[int], None]]:
    """Returns the `progress` of a `SourceEmbedder`: a line for each source.

    Args:
        batch_size: Images per forward pass.
    """

    def begin(name, images):
        line = ProgressLine(max(math.ceil(images / batch_size), 1))
        sys.stderr.write(f"{name}: {images:,} images\n")
        left = [images]

        def done(count):
            line.update(count)
            left[0] -= count
            if not left[0]:
                line.close()

        return done

    return begin
