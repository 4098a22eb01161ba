"""Tests for `ekd_tf.run.progress`."""

import io
import os
import shutil
import time

import pytest

from ekd_tf.run.progress import ProgressHook
from ekd_tf.run.progress import ProgressLine
from ekd_tf.run.progress import embedding_progress
from ekd_tf.training.loop import Step


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    """Shows the seconds it is set to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Term:
    """A number that counts how often it is read, as a device tensor would block."""

    def __init__(self, value):
        self.value = value
        self.reads = 0

    def __float__(self):
        self.reads += 1
        return self.value


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def columns(monkeypatch):
    def set_columns(number):
        size = os.terminal_size((number, 24))
        monkeypatch.setattr(shutil, "get_terminal_size", lambda: size)

    set_columns(120)
    return set_columns


def run(progress, clock, seconds, count=10, terms=None):
    """Makes one update per entry, which took so many seconds."""
    for duration in seconds:
        clock.now += duration
        progress.update(count, terms)


def test_shows_step_speed_time_left_and_terms(clock, columns):
    stream = Terminal()
    progress = ProgressLine(
        10, stream=stream, initial_step=2, terminal_seconds=0, clock=clock
    )
    run(progress, clock, [60.0, 2.0], terms={"loss": 1.23456, "loss/ekd": 0.00005})
    # 10 images and one step in the 2 seconds after tracing; 6 steps are left.
    assert stream.getvalue().split("\r")[-1] == (
        "[########............] 4/10  5 images/s  ETA 0:00:12  loss 1.235  "
        "loss/ekd 5e-05"
    )


def test_first_update_has_no_speed_yet(clock, columns):
    stream = Terminal()
    progress = ProgressLine(10, stream=stream, clock=clock)
    run(progress, clock, [60.0], terms={"loss": 2.0})
    assert progress.per_second is None
    assert stream.getvalue() == "\r[##..................] 1/10  loss 2"


def test_speed_excludes_the_first_update(clock):
    progress = ProgressLine(10, stream=io.StringIO(), clock=clock)
    run(progress, clock, [60.0, 1.0, 1.0, 2.0], count=8)
    assert progress.per_second == pytest.approx(3 * 8 / 4.0)


def test_speed_is_that_of_the_window(clock):
    progress = ProgressLine(100, stream=io.StringIO(), window=3, clock=clock)
    run(progress, clock, [1.0] * 5, count=8)
    assert progress.per_second == pytest.approx(8.0)
    # Three updates of two seconds fill the window.
    run(progress, clock, [2.0] * 3, count=8)
    assert progress.per_second == pytest.approx(4.0)


def test_speed_counts_updates_of_different_size(clock):
    progress = ProgressLine(10, stream=io.StringIO(), clock=clock)
    run(progress, clock, [1.0], count=1000)
    run(progress, clock, [1.0], count=30)
    run(progress, clock, [1.0], count=10)
    assert progress.per_second == pytest.approx(20.0)


def test_pause_does_not_enter_the_speed(clock, columns):
    stream = Terminal()
    progress = ProgressLine(100, stream=stream, clock=clock)
    run(progress, clock, [1.0, 1.0, 1.0])
    progress.pause()
    assert stream.getvalue().endswith("\n")
    run(progress, clock, [500.0])
    assert progress.per_second is None
    run(progress, clock, [1.0])
    assert progress.per_second == pytest.approx(10.0)


def test_a_clock_that_stands_still_gives_no_speed(clock, columns):
    stream = Terminal()
    progress = ProgressLine(10, stream=stream, terminal_seconds=0, clock=clock)
    run(progress, clock, [0.0, 0.0])
    assert progress.per_second is None
    assert stream.getvalue().endswith("2/10")


def test_terminal_is_redrawn_at_most_so_often(clock, columns):
    stream = Terminal()
    progress = ProgressLine(1000, stream=stream, terminal_seconds=0.5, clock=clock)
    term = Term(1.0)
    run(progress, clock, [0.125] * 21, terms={"loss": term})
    # At the first update and every fourth after it.
    assert stream.getvalue().count("\r") == term.reads == 6


def test_a_shorter_line_covers_a_longer_one(clock, columns):
    stream = Terminal()
    progress = ProgressLine(9, stream=stream, terminal_seconds=0, clock=clock)
    run(progress, clock, [1.0], terms={"loss": 1.2345})
    run(progress, clock, [0.0], terms={})
    first, second = stream.getvalue().split("\r")[1:]
    assert len(second) == len(first)
    assert second.rstrip().endswith("2/9")


def test_narrow_terminals_give_up_the_bar_then_the_end(clock, columns):
    stream = Terminal()
    progress = ProgressLine(10, stream=stream, terminal_seconds=0, clock=clock)
    columns(30)
    run(progress, clock, [1.0], terms={"loss": 1.5, "margin": 2.5})
    assert stream.getvalue() == "\r1/10  loss 1.5  margin 2.5"
    columns(12)
    run(progress, clock, [0.0], terms={"loss": 1.5})
    assert stream.getvalue().split("\r")[-1].rstrip() == "2/10  loss"


def test_other_streams_get_plain_lines_every_few_seconds(clock):
    stream = io.StringIO()
    progress = ProgressLine(
        30, unit="faces", stream=stream, plain_seconds=10.0, clock=clock
    )
    run(progress, clock, [1.0] * 30, terms={"loss": 0.5})
    progress.close()
    # The first, every ten seconds, and the last in any case.
    assert stream.getvalue().splitlines() == [
        "1/30  loss 0.5",
        "11/30  10 faces/s  ETA 0:00:19  loss 0.5",
        "21/30  10 faces/s  ETA 0:00:09  loss 0.5",
        "30/30  10 faces/s  ETA 0:00:00  loss 0.5",
    ]
    assert "\r" not in stream.getvalue()


def test_long_times_are_shown_in_hours(clock):
    stream = io.StringIO()
    progress = ProgressLine(10_002, stream=stream, plain_seconds=0, clock=clock)
    run(progress, clock, [1.0, 12.5])
    assert "ETA 34:43:20" in stream.getvalue()


def test_last_update_is_drawn_on_a_terminal(clock, columns):
    stream = Terminal()
    progress = ProgressLine(3, stream=stream, terminal_seconds=60, clock=clock)
    run(progress, clock, [0.1] * 3)
    assert "[####################] 3/3" in stream.getvalue()


def test_close_ends_the_line_once(clock, columns):
    stream = Terminal()
    progress = ProgressLine(3, stream=stream, clock=clock)
    run(progress, clock, [1.0])
    progress.close()
    progress.close()
    assert stream.getvalue().count("\n") == 1


def test_close_without_updates_writes_nothing():
    stream = Terminal()
    ProgressLine(3, stream=stream).close()
    assert stream.getvalue() == ""


def test_an_update_costs_less_than_a_fifth_of_a_millisecond(columns):
    progress = ProgressLine(10**6, stream=Terminal())
    terms = {f"loss/{i}": 0.5 for i in range(8)}
    times = []
    for _ in range(5):
        begin = time.process_time()
        for _ in range(2000):
            progress.update(512, terms)
        times.append((time.process_time() - begin) / 2000)
    # The best of five: other processes on the machine only add.
    assert min(times) < 0.2e-3


def test_goes_to_standard_error(capsys, clock):
    run(ProgressLine(3, clock=clock), clock, [1.0], terms={"loss": 1.0})
    captured = capsys.readouterr()
    assert captured.err == "1/3  loss 1\n"
    assert captured.out == ""


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"total_steps": 0}, "`total_steps` must be in"),
        ({"total_steps": 5, "window": 1}, "`window` must be in"),
    ],
)
def test_rejects_wrong_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        ProgressLine(**arguments)


def test_hook_shows_loss_terms_and_not_the_loss_scale(clock, columns):
    stream = Terminal()
    line = ProgressLine(4, stream=stream, terminal_seconds=0, clock=clock)
    hook = ProgressHook(line, count=8)
    scalars = {"loss": 2.0, "loss/margin": 1.0, "loss_scale": 8.0, "learning_rate": 0.1}
    scalars |= {"weight/ekd": 4.0, "gradient_ratio/ekd": 0.3}
    for number in (1, 2):
        clock.now += 2.0
        hook.after_step(Step(number, False, scalars, {}))
    shown = stream.getvalue().split("\r")[-1]
    assert shown.endswith(
        "2/4  4 images/s  ETA 0:00:04  loss 2  loss/margin 1  gradient_ratio/ekd 0.3"
    )


def test_hook_shows_the_margin_loss_at_100_columns(clock, columns):
    columns(100)
    stream = Terminal()
    line = ProgressLine(
        1_000_000, stream=stream, terminal_seconds=0, clock=clock, initial_step=654_321
    )
    hook = ProgressHook(line, count=1e6)
    scalars = {"loss": 23.456, "gradient_ratio/ekd": 0.3, "gradient_ratio/cosine": 1.1}
    scalars |= {"loss/ekd/positive": 0.5, "loss/margin": 12.345}
    for number in (1, 2):
        clock.now += 2.0
        hook.after_step(Step(number, False, scalars, {}))
    assert "loss 23.46  loss/margin 12.35" in stream.getvalue().split("\r")[-1]


def test_a_source_that_is_embedded_has_a_line_of_its_own(capsys):
    done = embedding_progress(4)("faces", 6)
    done(4)
    done(2)
    said = capsys.readouterr().err
    assert "faces: 6 images" in said and "1/2" in said and "2/2" in said
