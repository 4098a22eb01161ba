import io
import os
import time
from unittest import mock

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


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A clock that the test sets forward, beside a terminal of 100 columns."""

    class Clock:
        now = 100.0

        def run(self, update, seconds, *arguments):
            """Makes one call per entry, which took so many seconds."""
            for duration in seconds:
                self.now += duration
                update(*arguments)

    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    monkeypatch.setattr("tqdm.std.time", lambda: clock.now)
    size = os.terminal_size((100, 24))
    monkeypatch.setattr(os, "get_terminal_size", lambda number: size)
    return clock


def shown(stream):
    """Returns what a terminal shows after the last drawing."""
    return stream.getvalue().split("\r")[-1].rstrip()


def test_shows_step_speed_time_left_and_terms(clock):
    stream = Terminal()
    progress = ProgressLine(10, stream=stream, initial_step=2)
    clock.run(progress.update, [60.0], 10, {"loss": 2.0})
    assert shown(stream).endswith(" 3/10  ETA ?  loss 2")
    clock.run(progress.update, [2.0], 10, {"loss": 1.23456, "loss/ekd": 0.00005})
    # 10 images and one step in the 2 seconds after tracing; 6 steps are left.
    assert shown(stream) == (
        "####       4/10  5 images/s  ETA 00:12  loss 1.235  loss/ekd 5e-05"
    )


def test_speed_is_that_of_the_window_without_the_first_update_and_pauses(clock):
    stream = Terminal()
    progress = ProgressLine(200, stream=stream)
    clock.run(progress.update, [60.0], 10)
    assert progress.per_second is None
    clock.run(progress.update, [1.0, 1.0, 2.0], 8)
    assert progress.per_second == pytest.approx(3 * 8 / 4.0)
    clock.run(progress.update, [2.0] * 50, 8)
    assert progress.per_second == pytest.approx(4.0)
    progress.pause()
    assert shown(stream) == ""
    clock.run(progress.update, [500.0], 10)
    assert progress.per_second is None
    clock.run(progress.update, [1.0], 10)
    assert progress.per_second == pytest.approx(10.0)
    clock.run(progress.update, [0.0] * 51, 10)
    assert progress.per_second is None


def test_terms_are_read_only_when_the_line_is_drawn(clock):
    # A device tensor would block when it is read.
    stream, term = Terminal(), mock.MagicMock(**{"__float__.return_value": 0.5})
    progress = ProgressLine(1000, stream=stream)
    clock.run(progress.update, [0.03125] * 21, 10, {"loss": term})
    # At the first update, for a start, and every fourth one.
    assert stream.getvalue().count("loss") == term.__float__.call_count == 6


def test_a_file_gets_the_first_line_one_a_minute_and_the_last(clock):
    stream = io.StringIO()
    progress = ProgressLine(130, unit="faces", stream=stream)
    clock.run(progress.update, [1.0] * 130, 10, {"loss": 0.5})
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
    clock.run(progress.update, [1.0, 0.01, 0.01])
    assert "########## 3/3" in shown(stream)
    progress.close()
    progress.close()
    assert stream.getvalue().count("\n") == 1


def test_hook_shows_the_margin_loss_at_100_columns(clock):
    stream = Terminal()
    line = ProgressLine(1_000_000, stream=stream, initial_step=654_321)
    hook = ProgressHook(line, count=1e6)
    scalars = {"loss": 23.456, "gradient_ratio/ekd": 0.3, "gradient_ratio/cosine": 1.1}
    scalars |= {"loss/ekd/positive": 0.5, "loss/margin": 12.345, "loss_scale": 8.0}
    clock.run(hook.after_step, [2.0, 2.0], Step(1, False, scalars, {}))
    assert "  loss 23.46  loss/margin 12.35  " in shown(stream)
    assert "loss_scale" not in shown(stream)
    assert len(shown(stream)) <= 100
    # 345,677 steps of 2 seconds.
    assert "  ETA 192:02:34  " in shown(stream)


def test_named_work_has_rate_and_time_left_on_a_terminal(clock):
    stream = Terminal()
    done = begin_line("faces", 4000, "images", stream)
    clock.run(done, [0.5], 1000)
    # What is over in a second needs no line.
    assert stream.getvalue() == ""
    clock.run(done, [2.0, 2.0], 1000)
    assert shown(stream).endswith("  3000/4000  500 images/s  ETA 00:02  faces")
    clock.run(done, [0.01], 1000)
    assert "########## 4000/4000" in shown(stream)
    assert stream.getvalue().count("\n") == 1
    # A slow rate has its decimals.
    clock.run(begin_line("photos", 9, "photographs", stream), [4.0] * 3, 1)
    assert "  0.25 photographs/s  ETA 00:24  photos" in shown(stream)


def test_named_work_writes_a_line_a_minute_to_a_file(clock):
    stream, short = io.StringIO(), io.StringIO()
    clock.run(begin_line("pairs", 200 * 10**6, "pairs", stream), [1.0] * 200, 10**6)
    assert stream.getvalue().splitlines() == [
        "60000000/200000000  1,000,000 pairs/s  ETA 02:20  pairs",
        "120000000/200000000  1,000,000 pairs/s  ETA 01:20  pairs",
        "180000000/200000000  1,000,000 pairs/s  ETA 00:20  pairs",
        "200000000/200000000  1,000,000 pairs/s  ETA 00:00  pairs",
    ]
    # None of what took less.
    clock.run(begin_line("pairs", 50, "pairs", short), [1.0] * 50, 1)
    assert short.getvalue() == ""
