"""One line that says how far a run is, how fast, and what it loses."""

from __future__ import annotations

import collections
import math
import shutil
import sys
import time
from collections.abc import Callable

from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range
from ekd_tf.training.loop import Hook

_BAR = 20


class ProgressLine:
    """Shows step, speed, time left and every loss term on one line.

    On a terminal the line is redrawn in place; on anything else (a file, a pipe) a
    line is printed every `plain_seconds`. Terms may be tensors: they are read only
    when a line is drawn, so updates in between do not wait for the device.

    Args:
        total_steps: Integer > 0: updates in the whole run.
        unit: What is counted per second.
        stream: Text stream to write to.
        initial_step: Integer: updates made before, when the run is resumed.
        window: Integer > 1: updates the speed is averaged over.
        terminal_seconds: Float: least time between two drawings on a terminal.
        plain_seconds: Float: the same on other streams.
        clock: Function returning seconds; for tests.
    """

    def __init__(
        self,
        total_steps: int,
        unit: str = "images",
        stream=None,
        initial_step: int = 0,
        window: int = 50,
        terminal_seconds: float = 0.1,
        plain_seconds: float = 10.0,
        clock=time.monotonic,
    ):
        check_positive("total_steps", total_steps)
        check_range("window", window, low=2)
        self._total = total_steps
        self._unit = unit
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._seconds = terminal_seconds if self._terminal else plain_seconds
        self._clock = clock
        self._step = initial_step
        self._count = 0
        # One mark more than updates: n updates lie between n + 1 marks.
        self._marks = collections.deque(maxlen=window + 1)
        self._drawn_at = None
        self._drawn_length = 0

    @property
    def step(self) -> int:
        """Updates made so far in the whole run."""
        return self._step

    @property
    def per_second(self) -> float | None:
        """Units per second over the window; None before the second update.

        The first update after the start or a pause only starts the clock: it
        carries tracing and the filling of the input pipeline.
        """
        return self._rate(1)

    def _rate(self, column):
        if len(self._marks) < 2:
            return None
        first, last = self._marks[0], self._marks[-1]
        seconds = last[2] - first[2]
        return (last[column] - first[column]) / seconds if seconds > 0 else None

    def update(self, count: int, terms: dict | None = None) -> None:
        """Notes that one more update was made.

        Args:
            count: Units (images) the update consumed over all replicas.
            terms: Name -> number or scalar tensor, shown in this order.
        """
        now = self._clock()
        self._step += 1
        self._count += count
        self._marks.append((self._step, self._count, now))
        if self._drawn_at is None or now - self._drawn_at >= self._seconds:
            self._draw(now, terms)
        elif self._step == self._total:
            self._draw(now, terms)

    def pause(self) -> None:
        """Ends the line before something else is printed or takes long.

        The time until the next update does not enter the speed.
        """
        if self._terminal and self._drawn_length:
            self._stream.write("\n")
            self._stream.flush()
        self._drawn_length = 0
        self._marks.clear()

    def close(self) -> None:
        """Ends the line for good."""
        self.pause()

    def _draw(self, now, terms):
        self._drawn_at = now
        text = self._text(terms or {})
        if not self._terminal:
            self._stream.write(text + "\n")
            self._stream.flush()
            return
        # A line as wide as the terminal would wrap and leave a copy at each redraw.
        width = shutil.get_terminal_size().columns - 1
        if len(text) + _BAR + 3 <= width:
            filled = _BAR * min(self._step, self._total) // self._total
            text = f"[{'#' * filled}{'.' * (_BAR - filled)}] {text}"
        text = text[:width]
        self._stream.write("\r" + text.ljust(self._drawn_length))
        self._stream.flush()
        self._drawn_length = len(text)

    def _text(self, terms):
        speed, steps = self._rate(1), self._rate(0)
        parts = [f"{self._step}/{self._total}"]
        if speed is not None:
            parts.append(f"{speed:.0f} {self._unit}/s")
            left = (self._total - self._step) / steps
            parts.append(f"ETA {_duration(left)}")
        parts += [f"{name} {float(value):.4g}" for name, value in terms.items()]
        return "  ".join(parts)


class ProgressHook(Hook):
    """Shows the loss and its terms at every update on a progress line.

    Right behind the loss, where a narrow terminal still shows them, stand the margin
    loss and the gradients of distillation losses as ratios to its gradient.

    Args:
        line: `ProgressLine`.
        count: Int: rows of a global batch.
    """

    def __init__(self, line: ProgressLine, count: int):
        self._line = line
        self._count = count

    def after_step(self, step):
        terms = {
            name: step.scalars[name]
            for start in ("loss", "loss/margin", "gradient_ratio/", "loss/")
            for name in step.scalars
            if name == start or (start.endswith("/") and name.startswith(start))
        }
        self._line.update(self._count, terms)


def embedding_progress(batch_size: int) -> Callable:
    """Returns the `progress` of a `SourceEmbedder`: a line for each source.

    Args:
        batch_size: Int, images per forward pass.
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


def _duration(seconds):
    minutes, seconds = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
