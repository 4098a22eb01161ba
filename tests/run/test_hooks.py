"""Tests for `ekd_tf.run.hooks` and `ekd_tf.run.interruption`."""

import os
import signal
import sys
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from refusals import refused
from traces import steps_in

from ekd_tf.data import SyntheticFaces
from ekd_tf.run import hooks
from ekd_tf.run.hooks import TerminationHook
from ekd_tf.run.hooks import profiled_steps
from ekd_tf.run.interruption import Interrupted
from ekd_tf.run.interruption import Termination
from ekd_tf.run.interruption import child_process
from ekd_tf.training.loop import Every
from ekd_tf.training.loop import Step
from ekd_tf.training.loop import run_steps

SOURCE = SyntheticFaces(identities=3, images_per_identity=4, size=32)
IDS = np.array([2, 7])


def embed(batch):
    """Image 7 has no finite embedding."""
    rows = np.ones((len(batch["image"]), 2))
    rows[np.asarray(batch["image"]) == 7, 0] = np.inf
    return rows


def feed(folder, limit, bad, dynamic=False, scale=1.0, ids=IDS, **more):
    """Gives a guard a step per entry, True for a skipped one."""
    models = {"student": lambda x: np.ones((len(x["image"]), 2)), "teacher": embed}
    guard = hooks.UpdateGuard(limit, dynamic, SOURCE, models, folder, **more)
    for number, is_bad in enumerate(bad, 1):
        scalars = {"gradient_norm": np.nan if is_bad else 1.0, "loss_scale": scale}
        batch = {"image_id": ids, "image": ids}
        guard.after_step(Step(number, number == len(bad), scalars, batch))


def test_consecutive_bad_steps_end_the_run(tmp_path):
    text = refused(None, feed, tmp_path, 3, [0, 1, 1, 0, 1, 1, 1])
    assert text.startswith(
        "Loss or gradient of the last 3 steps, up to step 7, are not finite "
        "(--max_bad_steps=3). 1 of the last batch's 2 images have no finite "
        f"embedding by the teacher: {SOURCE.describe(7)}. All batches are in "
    )
    expected = [f"{n}\t{SOURCE.describe(i)}" for n in (5, 6, 7) for i in (2, 7)]
    assert (tmp_path / "bad_steps.txt").read_text().splitlines() == expected
    with pytest.raises(ValueError, match="No image is at fault alone; the batches"):
        feed(tmp_path, 1, [1], ids=np.array([2, 3]))
    # Rows of all replicas are joined.
    with pytest.raises(ValueError, match="2 of the last batch's 4 images"):
        feed(tmp_path, 1, [1], ids=([1, 7], [7, 2]), local_values=lambda value: value)


def test_only_the_smallest_loss_scale_ends_the_run_at_once(tmp_path):
    with pytest.raises(ValueError, match="scale has collapsed: at step 2 loss or"):
        feed(tmp_path, 20, [0, 1, 0], dynamic=True)
    # A search for the scale, and none at all.
    feed(tmp_path, 20, [1, 1, 1, 0], dynamic=True, scale=4096.0)
    feed(tmp_path, 20, [0, 1, 0])


def test_collapsed_embeddings_end_the_run():
    def collapse(steps, *cosines):
        guard = hooks.CollapseGuard(steps)
        for number, cosine in enumerate(cosines, 1):
            scalars = {"embedding/mean_cosine": cosine}
            guard.after_step(Step(number, number == len(cosines), scalars, {}))

    refused("for 2 steps, up to step 4, .*0.9950", collapse, 2, 1, 0.5, 0.992, 0.995)
    collapse(3, 0.999, 0.999, 0.99, 0.999, 0.999)


def test_scalars_are_read_one_step_late_and_the_last_at_once():
    seen = []

    class Noting(hooks.LateHook):
        def look(self, step):
            seen.append(step.number)

    hook = Noting()
    for number, expected in ((1, []), (2, [1]), (3, [1, 2, 3])):
        hook.after_step(step(number, is_last=number == 3))
        assert seen == expected


def test_a_loss_without_gradient_is_warned_of_once(caplog):
    faint, paused = [0.001, np.nan, 0.002, 0.003], []
    ratios = {"ekd": [0.5, *faint, 0.001, 1.0], "sp": [*faint[:3], 1.0, *faint[:3]]}
    hook = hooks.FaintLossHook(lambda: paused.append(len(caplog.records)), steps=3)
    for number, values in enumerate(zip(*ratios.values()), 1):
        scalars = {"loss": 1.0, "weight/ekd": 2.0, "weight/sp": 2.0}
        scalars.update({f"gradient_ratio/{k}": v for k, v in zip(ratios, values)})
        hook.after_step(Step(number, number == 7, scalars, {}))
    (record,) = caplog.records
    # Skipped steps, which have no ratio, do not count; SP was never faint for three.
    assert paused == [0] and record.getMessage() == (
        "For 3 steps, up to step 5, the gradient of 'ekd' on the embeddings was below "
        "1 % of the margin loss's: 0.2 % on average at weight 2. --distill=ekd:30% "
        "makes it 30 % and keeps it there."
    )


def profile(folder, text, steps, start=0, *others):
    """Runs steps under the hook; returns those in every trace, from the traces."""
    step = tf.function(lambda batch: {"loss": tf.reduce_sum(batch)})
    batches = iter(tf.data.Dataset.from_tensors(tf.ones((2, 2))).repeat())
    hook = hooks.ProfileHook(folder, profiled_steps(text))
    run_steps(step, batches, start, steps, [hook, *others])
    return [steps_in(path) for path in sorted(folder.rglob("*.xplane.pb"))]


def test_traces_those_of_its_steps_that_are_made(tmp_path):
    for start, traces in ((0, [[3, 4]]), (3, [[4]]), (4, [])):
        assert profile(tmp_path / str(start), "3:4", 6, start) == traces
    assert profile(tmp_path / "all", "1:9", 6) == [list(range(1, 7))]
    # A run that dies leaves the trace so far.
    folder, stop = tmp_path / "dies", Every(3, mock.Mock(side_effect=KeyboardInterrupt))
    refused(None, profile, folder, "2:8", 9, 0, stop, error=KeyboardInterrupt)
    assert [steps_in(path) for path in folder.rglob("*.xplane.pb")] == [[2, 3]]
    # Nothing is left running, which would forbid another.
    assert profile(tmp_path / "next", "1:1", 1) == [[1]]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as error:
        profile(tmp_path / "file", "1:1", 2)
    assert error.value.filename == str(tmp_path / "file")


def test_reads_the_first_and_the_last_step_to_profile():
    assert list(profiled_steps("2:5")) == [2, 3, 4, 5]
    assert not profiled_steps("") and not profiled_steps(None)
    for text in ("5", "5:3", "0:2", "a:b", "1:2:3", "-1:2", "1: 2"):
        refused(f"must be FIRST:LAST.*{text!r}", profiled_steps, text)


def step(number, is_last=False):
    return Step(number, is_last, {}, {})


@pytest.fixture
def foreground():
    """As in the foreground: where tests run in the background some are ignored."""
    numbers = signal.SIGINT, signal.SIGHUP
    before = [signal.signal(each, signal.default_int_handler) for each in numbers]
    yield
    for number, handler in zip(numbers, before):
        signal.signal(number, handler)


@pytest.fixture
def termination(foreground):
    termination = Termination()
    with termination.noted():
        yield termination


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")]
)
def test_the_step_in_hand_is_finished_and_saved(termination, number, name):
    saved = []
    hook = TerminationHook(termination, lambda step: saved.append(step.number))
    hook.after_step(step(1))
    os.kill(os.getpid(), number)
    with pytest.raises(Interrupted, match=f"{name}: the run is saved at step 2."):
        hook.after_step(step(2))
    assert saved == [2]
    # A second one ends it at once.
    with pytest.raises(Interrupted, match=f"{name}: the run ends at its last"):
        os.kill(os.getpid(), number)


def test_before_the_first_and_after_the_last_step_the_run_ends_at_once(termination):
    saved = []
    hook = TerminationHook(termination, lambda step: saved.append(step.number))
    with pytest.raises(Interrupted, match="ends at its last checkpoint"):
        os.kill(os.getpid(), signal.SIGTERM)
    # As if AutoGraph, which was converting the step, had gone on after that.
    refused("saved at step 1", hook.after_step, step(1), error=Interrupted)
    termination.asked = False
    hook.after_step(step(2, is_last=True))
    with pytest.raises(Interrupted, match="ends at its last checkpoint"):
        os.kill(os.getpid(), signal.SIGTERM)
    assert saved == [1]


def test_workers_leave_one_step_after_the_question(termination, two_replicas):
    # Two replicas stand for two workers: each asks, and the sum is everybody's answer.
    saved = []
    hook = TerminationHook(termination, lambda s: saved.append(s.number), two_replicas)
    # Within the first step.
    os.kill(os.getpid(), signal.SIGTERM)
    hook.after_step(step(1))
    refused("saved at step 2", hook.after_step, step(2), error=Interrupted)
    assert saved == [2]


# Counts what it is sent until its input ends.
COUNT = """
import signal, sys
heard = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: heard.append(number))
print("ready", flush=True)
sys.stdin.read()
print(*heard)
"""


def heard_by_child(*numbers):
    """Returns what a child hears of signals sent to this process, and what it notes."""
    pipes = {"stdin": -1, "stdout": -1, "text": True}
    with child_process([sys.executable, "-c", COUNT], **pipes) as (child, signals):
        # Else the terminal would send it a second one.
        assert os.getpgid(child.pid) != os.getpgid(0)
        assert child.stdout.readline() == "ready\n"
        for number in numbers:
            os.kill(os.getpid(), number)
        heard = child.communicate()[0].split()
    return [int(number) for number in heard], signals


def test_signals_are_passed_on_once_and_a_closed_terminal_as_sigterm(foreground):
    interrupt, term, closed = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    before = signal.getsignal(term)
    assert heard_by_child(term) == ([term], [term])
    assert heard_by_child(interrupt, closed) == ([interrupt, term], [interrupt, closed])
    assert signal.getsignal(term) == before


def test_what_is_ignored_stays_so(foreground):
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    assert heard_by_child(signal.SIGHUP) == ([], [])
    termination = Termination()
    with termination.noted():
        os.kill(os.getpid(), signal.SIGINT)
    assert not termination.asked


def test_an_error_of_the_parent_leaves_no_child_and_no_handler():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyError):
        with child_process([sys.executable, "-c", COUNT], stdin=-1) as (child, _):
            raise KeyError
    assert child.returncode == -signal.SIGKILL
    with pytest.raises(KeyError), Termination().noted():
        assert signal.getsignal(signal.SIGTERM) != before
        raise KeyError
    assert signal.getsignal(signal.SIGTERM) == before
