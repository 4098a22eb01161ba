"""Tests for `ekd_tf.run.progress`."""

import io
import os
import time

import pytest

from ekd_tf.run.progress import ProgressHook
from ekd_tf.run.progress import ProgressLine
from ekd_tf.run.progress import begin_line
from ekd_tf.training.loop import Step


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def fileno(self):
        return 2


class Term:
    """A number that counts how often it is read, as a device tensor would block."""

    reads = 0

    def __float__(self):
        self.reads += 1
        return 0.5


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets forward; tqdm reads it too."""

    class Clock:
        now = 100.0

        def run(self, progress, seconds, count=10, terms=None):
            """Makes one update per entry, which took so many seconds."""
            for duration in seconds:
                self.now += duration
                progress.update(count, terms)

    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    monkeypatch.setattr("tqdm.std.time", lambda: clock.now)
    return clock


@pytest.fixture(autouse=True)
def columns(monkeypatch):
    def set_columns(number):
        size = os.terminal_size((number, 24))
        monkeypatch.setattr(os, "get_terminal_size", lambda number: size)

    set_columns(120)
    return set_columns


def shown(stream):
    """Returns what a terminal shows after the last drawing."""
    return stream.getvalue().split("\r")[-1].rstrip()


def test_shows_step_speed_time_left_and_terms(clock):
    stream = Terminal()
    progress = ProgressLine(10, stream=stream, initial_step=2)
    clock.run(progress, [60.0], terms={"loss": 2.0})
    assert shown(stream).endswith(" 3/10  ETA ?  loss 2")
    clock.run(progress, [2.0], terms={"loss": 1.23456, "loss/ekd": 0.00005})
    # 10 images and one step in the 2 seconds after tracing; 6 steps are left.
    assert shown(stream).endswith(
        " 4/10  5 images/s  ETA 00:12  loss 1.235  loss/ekd 5e-05"
    )
    assert shown(stream).startswith("####       4/10")


def test_speed_is_that_of_the_window_without_the_first_update_and_pauses(clock):
    stream = Terminal()
    progress = ProgressLine(200, stream=stream)
    clock.run(progress, [60.0])
    assert progress.per_second is None
    clock.run(progress, [1.0, 1.0, 2.0], count=8)
    assert progress.per_second == pytest.approx(3 * 8 / 4.0)
    clock.run(progress, [2.0] * 50, count=8)
    assert progress.per_second == pytest.approx(4.0)
    progress.pause()
    assert shown(stream) == ""
    clock.run(progress, [500.0])
    assert progress.per_second is None
    clock.run(progress, [1.0])
    assert progress.per_second == pytest.approx(10.0)
    clock.run(progress, [0.0] * 51)
    assert progress.per_second is None


def test_terms_are_read_only_when_the_line_is_drawn(clock):
    stream = Terminal()
    term = Term()
    progress = ProgressLine(1000, stream=stream)
    clock.run(progress, [0.03125] * 21, terms={"loss": term})
    # At the first update, for a start, and every fourth one.
    assert stream.getvalue().count("loss") == term.reads == 6


def test_a_file_gets_the_first_line_one_a_minute_and_the_last(clock):
    stream = io.StringIO()
    progress = ProgressLine(130, unit="faces", stream=stream)
    clock.run(progress, [1.0] * 130, terms={"loss": 0.5})
    progress.pause()
    progress.close()
    assert stream.getvalue().splitlines() == [
        "1/130  ETA ?  loss 0.5",
        "60/130  10 faces/s  ETA 01:10  loss 0.5",
        "120/130  10 faces/s  ETA 00:10  loss 0.5",
        "130/130  10 faces/s  ETA 00:00  loss 0.5",
    ]


def test_close_ends_the_line_once_and_writes_nothing_without_updates(clock):
    stream = Terminal()
    ProgressLine(3, stream=stream).close()
    assert stream.getvalue() == ""
    progress = ProgressLine(3, stream=stream)
    # The last update is drawn however soon it comes.
    clock.run(progress, [1.0, 0.01, 0.01])
    assert "########## 3/3" in shown(stream)
    progress.close()
    progress.close()
    assert stream.getvalue().count("\n") == 1


def test_hook_shows_the_margin_loss_at_100_columns(clock, columns):
    columns(100)
    stream = Terminal()
    line = ProgressLine(1_000_000, stream=stream, initial_step=654_321)
    hook = ProgressHook(line, count=1e6)
    scalars = {"loss": 23.456, "gradient_ratio/ekd": 0.3, "gradient_ratio/cosine": 1.1}
    scalars |= {"loss/ekd/positive": 0.5, "loss/margin": 12.345, "loss_scale": 8.0}
    for number in (1, 2):
        clock.now += 2.0
        hook.after_step(Step(number, False, scalars, {}))
    assert "  loss 23.46  loss/margin 12.35  " in shown(stream)
    assert "loss_scale" not in shown(stream)
    assert len(shown(stream)) <= 100
    # 345,677 steps of 2 seconds.
    assert "  ETA 192:02:34  " in shown(stream)


def test_named_work_has_rate_and_time_left_on_a_terminal(clock):
    stream = Terminal()
    done = begin_line("faces", 4000, "images", stream)
    clock.now += 0.5
    done(1000)
    # What is over in a second needs no line.
    assert stream.getvalue() == ""
    for _ in range(2):
        clock.now += 2.0
        done(1000)
    assert shown(stream).endswith("  3000/4000  500 images/s  ETA 00:02  faces")
    clock.now += 0.01
    done(1000)
    assert "########## 4000/4000" in shown(stream)
    assert stream.getvalue().count("\n") == 1


def test_named_work_writes_a_line_a_minute_to_a_file(clock):
    stream = io.StringIO()
    done = begin_line("all pairs", 200 * 10**6, "pairs", stream)
    counts = []
    for _ in range(200):
        clock.now += 1.0
        done(10**6)
        counts.append(stream.getvalue().count("\n"))
    assert [counts.index(k) + 1 for k in (1, 2, 3, 4)] == [60, 120, 180, 200]
    lines = stream.getvalue().splitlines()
    assert lines[0] == "60000000/200000000  1,000,000 pairs/s  ETA 02:20  all pairs"
    assert lines[-1] == "200000000/200000000  1,000,000 pairs/s  ETA 00:00  all pairs"
    # None of what took less.
    short = io.StringIO()
    done = begin_line("all pairs", 50, "pairs", short)
    for _ in range(50):
        clock.now += 1.0
        done(1)
    assert short.getvalue() == ""


def test_a_slow_rate_has_its_decimals(clock):
    stream = Terminal()
    done = begin_line("photos", 9, "photographs", stream)
    for _ in range(3):
        clock.now += 4.0
        done(1)
    assert "  0.25 photographs/s  ETA 00:24  photos" in shown(stream)
